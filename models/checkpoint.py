"""A checkpoint, whatever it is: full, quantised, an adapter, an adapter on a quantised base, a hub id.

An adapter does not record the quantisation of the base it was trained on (peft issue 2105), and merging it
onto the full-precision base gives another model than the one that was trained. Our manifest
``teachfair.json`` records it.

Weights are read from safetensors only, and no code that comes with a checkpoint is run: both are said
explicitly, because transformers would otherwise wait for an answer on stdin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from teachfair.errors import CheckpointError, unknown_name
from teachfair.runs import fingerprint, hash_file, whole_folder, write_json, write_record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "teachfair.json"
ENSEMBLE = "ensemble.json"  # in a folder of several reward models that are read as one: which, and on what scale
DTYPES = ("float32", "float64", "bfloat16", "float16")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
)
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin", "*.pt", "*.pth", "*.ckpt")
# Where a checkpoint says which folder it came from: true of the copy, not of the model.
_PATH_KEYS = ("base_model_name_or_path", "_name_or_path")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint folder is, read from its json files alone.

    ``base`` is set for adapters; ``quantization`` is the folder's own (``quantised``) or, for adapters, the
    one under which the base must be loaded; ``is_quantised_base`` is True for an adapter whose base is
    quantised.
    """

    path: Path
    kind: Literal["full", "quantised", "adapter"]
    base: Path | str | None = None
    quantization: dict[str, Any] | None = None
    is_quantised_base: bool = False


def local_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that holds a checkpoint: ``path``, or a hub id's snapshot (HF_HUB_OFFLINE is respected).

    Raises: CheckpointError if there is neither a folder nor a reachable hub model of that name.
    """
    name = os.fspath(path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(
            "a checkpoint is a folder, this is a file", where=name, fix="pass the folder that holds it"
        )
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            "no such model folder",
            where=name,
            fix="check the path; a checkpoint holds config.json (or adapter_config.json) and safetensors",
        )
    from huggingface_hub import snapshot_download

    try:
        # Weights as safetensors, tokenizer and configs; nothing in subfolders (original formats of the same
        # weights).
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
                ignore_patterns=["*/*"],
            )
        )
    except (
        Exception
    ) as error:  # not found, gated, offline, no network: a dozen classes, one meaning to the user
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"no such model: neither a folder here nor a model of the hub that can be reached ({first_line})",
            where=name,
            fix="check the spelling; with HF_HUB_OFFLINE=1 the model must be in the cache or a folder",
        ) from error


def inspect_checkpoint(path: str | os.PathLike[str]) -> CheckpointInfo:
    """Say what a checkpoint folder is. Reads json only, loads no weights and no library.

    Raises: CheckpointError if there is no such folder, it has no config, or a config is not readable.
    """
    folder = local_folder(path)
    adapter_file, config_file = folder / "adapter_config.json", folder / "config.json"
    manifest = read_manifest(folder) or {}
    if adapter_file.is_file():
        base = _read_json(adapter_file).get("base_model_name_or_path") or manifest.get("base")
        if not base:
            raise CheckpointError(
                "the adapter does not say which base it belongs to",
                where=str(adapter_file),
                fix="set base_model_name_or_path in that file",
            )
        base = _find_base(folder, str(base))
        quantization = manifest.get("quantization")
        base_config = Path(base) / "config.json"
        if base_config.is_file():  # a base folder that is itself quantised
            quantization = _read_json(base_config).get("quantization_config") or quantization
        return CheckpointInfo(folder, "adapter", base, quantization, quantization is not None)
    if not config_file.is_file():
        raise CheckpointError(
            "the folder holds no config.json and no adapter_config.json, so it is not a checkpoint",
            where=str(folder),
            fix="pass the folder that save_pretrained wrote; a run folder may hold it one level down",
        )
    quantization = _read_json(config_file).get("quantization_config")
    return CheckpointInfo(folder, "quantised" if quantization else "full", None, quantization)


def _find_base(adapter: Path, base: str) -> Path | str:
    """As given, or relative to the adapter's folder: adapters travel together with a base beside them."""
    if Path(base).is_dir():
        return Path(base)
    if not Path(base).is_absolute() and (adapter / base).is_dir():
        return (adapter / base).resolve()
    return base


def load_policy(
    path: str | os.PathLike[str], *, dtype: str = "float32", device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a policy for scoring: a full or quantised folder, an adapter on any such base, or a hub id.

    Args:
        dtype: of every weight that is not quantised. float32 whatever the folder says: fp16 checkpoints move
            a benchmark by more than a point, and bf16 is slow on CPUs without AVX512-BF16.
        device: default the first CUDA device if there is one, else the CPU.

    Returns: the model in eval mode, no gradients, and its tokenizer (an adapter's own if it has one).
    Raises: CheckpointError with what is missing: the folder, its config, its weights (safetensors only), a
        tensor of them, the adapter's base.
    """
    info = inspect_checkpoint(path)
    model = (
        load_adapted(info, dtype, device) if info.kind == "adapter" else load_base(info.path, dtype, device)
    )
    tokenizer = load_tokenizer(info.path if info.kind != "adapter" or has_tokenizer(info.path) else info.base)
    return model.eval().requires_grad_(False), tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint folder brings its own tokenizer."""
    return any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    )


def load_tokenizer(path: str | os.PathLike[str] | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder. Raises: CheckpointError if it has none that loads."""
    from transformers import AutoTokenizer

    folder = local_folder(path if path is not None else "")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (
        Exception
    ) as error:  # transformers raises OSError, ValueError, KeyError, and tokenizers its own Exception
        raise CheckpointError(
            f"the checkpoint's tokenizer cannot be loaded ({_first_line(error)})",
            where=str(folder),
            fix="save the tokenizer with the model: tokenizer.save_pretrained(folder)",
        ) from error


def load_base(
    path: str | os.PathLike[str],
    dtype: str = "float32",
    device: str | torch.device | None = None,
    quantization: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a full or quantised folder as a causal language model; ``quantization`` quantises a full one.

    Args: quantization is a bitsandbytes configuration as a dict (``BitsAndBytesConfig.to_dict()``).
    Raises: CheckpointError, also if tensors of the model are absent from the files: transformers would fill
        them with random numbers.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    folder = local_folder(path)
    _require_safetensors(folder, "model")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    own = (
        _read_json(folder / "config.json").get("quantization_config")
        if (folder / "config.json").is_file()
        else None
    )
    options: dict[str, Any] = {}
    if own or quantization:
        options["device_map"] = {"": device}  # bitsandbytes chooses CUDA by itself where there is one
    if quantization and not own:
        options["quantization_config"] = BitsAndBytesConfig.from_dict(
            {key: value for key, value in quantization.items() if key != "quant_method"}
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # safetensors, json, config and architecture errors have no common class
        raise CheckpointError(
            f"the model cannot be loaded ({_first_line(error)})",
            where=str(folder),
            fix="check that the folder is complete and unchanged; models with their own code are refused",
        ) from error
    absent = sorted(str(name) for name in [*report["missing_keys"], *report["mismatched_keys"]])
    if absent:
        raise CheckpointError(
            f"{len(absent)} tensors of the model are not in its files, the first is {absent[0]}",
            where=str(folder),
            fix="the folder holds another kind of model or an incomplete copy; save or download it again",
        )
    keep_compute_dtype(model)
    if own or quantization:
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_the_cast_warning)
    return model if options else model.to(device)


def _not_the_cast_warning(record: logging.LogRecord) -> bool:
    """LLM.int8() warns at every layer of every pass that it rounds its inputs to fp16, as its paper does."""
    return "inputs will be cast from" not in record.getMessage()


def inside_adapter(model: Any) -> Any:
    """The causal language model inside a PEFT adapter; a model without one as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def keep_compute_dtype(model: torch.nn.Module) -> int:
    """Make 4-bit layers compute in the precision that their config asks for, on every CPU.

    bitsandbytes 0.50 looks at the CPU: with AVX512-BF16, a layer in eval mode repacks its weights in place at
    the first forward pass, rounds its scales to bf16 for good, and multiplies in bf16 although fp32 was asked
    for; layers whose size is not a multiple of 32 (or 64, the block) stop with an assertion (its pull request
    1804). Scores would depend on the machine, and an evaluation in the middle of a QLoRA training would
    change the base that is trained on.

    Call it on every model that was loaded in 4 bit by other means, before its first forward pass.
    Returns: the number of layers that were told so.
    """
    told = 0
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            compute_dtype = getattr(module, "compute_dtype", None)
            if compute_dtype is None or str(compute_dtype) == "torch.float32":
                module.support_avx512bf16_for_cpu = False
                told += 1
    return told


def load_adapted(
    info: CheckpointInfo,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    *,
    dequantise: bool = False,
) -> Any:
    """Load an adapter on its base (a ``PeftModel``); ``dequantise`` dequantises a 4/8-bit base first.

    Raises: CheckpointError if the base is gone; the message names both folders.
    """
    from peft import PeftModel

    _require_safetensors(info.path, "adapter")
    try:
        base_folder = local_folder(info.base or "")
    except CheckpointError as error:
        raise CheckpointError(
            f"the base of the adapter is gone: {info.base}",
            where=str(info.path),
            fix=f"put the base back, or edit base_model_name_or_path in {info.path / 'adapter_config.json'}",
        ) from error
    base = load_base(base_folder, dtype, device, info.quantization)
    if dequantise and info.is_quantised_base:
        base = _dequantised(base, dtype)
    if has_tokenizer(
        info.path
    ):  # a pad token that was added in training needs its row before the adapter loads
        rows = len(load_tokenizer(info.path))
        if rows > base.get_input_embeddings().weight.shape[0]:
            base.resize_token_embeddings(rows)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(
                base, str(info.path), is_trainable=False, autocast_adapter_dtype=False, local_files_only=True
            )
    except Exception as error:  # size mismatch is a RuntimeError, a wrong config a ValueError or TypeError
        raise CheckpointError(
            f"the adapter does not fit its base ({_first_line(error)})",
            where=f"{info.path} on {info.base}",
            fix="check that base_model_name_or_path names the base that the adapter was trained on",
        ) from error
    for warning in caught:
        # PEFT only warns when adapter tensors are absent, and goes on with an adapter that does nothing.
        if "missing adapter keys" in str(warning.message):
            raise CheckpointError(
                f"tensors of the adapter are not in its files ({_first_line(warning.message)})",
                where=str(info.path),
                fix="save the adapter again; the folder is incomplete or of another model",
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    import torch

    for name, parameter in model.named_parameters():
        if "lora_" in name and parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def _dequantised(model: Any, dtype: str) -> Any:
    import torch

    model = model.dequantize(dtype=getattr(torch, dtype))
    # Under int8 some tensors come back as fp16, and save_pretrained must not call the result quantised.
    model = model.to(getattr(torch, dtype))
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    return model


def merge(path: str | os.PathLike[str], out: str | os.PathLike[str], dtype: str = "float32") -> Path:
    """Merge an adapter into its base: a plain checkpoint folder that loads anywhere, tokenizer included.

    An adapter on a full base is merged by PEFT. An adapter on a 4/8-bit base (QLoRA) goes by the dequantise
    route: the base is loaded under the same quantisation, dequantised, and the adapter is merged into *those*
    weights, the ones it was trained against (qlora issue 254). Merging onto the full-precision base gives
    another model.

    Returns: ``out``; its manifest says which route, precision and adapter. Written whole or not at all.
    Raises: CheckpointError if ``path`` is not an adapter; RunFolderError if ``out`` is taken.
    """
    import torch

    info = inspect_checkpoint(path)
    if info.kind != "adapter":
        raise CheckpointError(
            f"there is nothing to merge: the checkpoint is {info.kind}, not an adapter",
            where=str(info.path),
            fix="pass the folder that holds adapter_config.json",
        )
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    with whole_folder(out) as aside:
        # The sum base + delta is made in fp32 and rounded once.
        adapted = load_adapted(info, "float32", "cpu", dequantise=True)
        merged = adapted.merge_and_unload(safe_merge=True).to(getattr(torch, dtype))
        merged.save_pretrained(aside)
        load_tokenizer(info.path if has_tokenizer(info.path) else info.base).save_pretrained(aside)
        route = "dequantise" if info.is_quantised_base else "merge"
        merged_from = {"adapter_hash": content_hash(info.path), "route": route, "dtype": dtype}
        write_manifest(aside, base=None, merged_from=merged_from)
        write_record(aside, what="merge", source=str(info.path), **merged_from)
    return Path(out)


def write_manifest(
    folder: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None,
    quantization: dict[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """Write ``teachfair.json``: the base of an adapter and the quantisation under which it was trained.

    Args: quantization is ``BitsAndBytesConfig.to_dict()`` of the base while training, None if it was not
        quantised.
    """
    record = {"base": None if base is None else os.fspath(base), "quantization": quantization, **extra}
    return write_json(Path(folder) / MANIFEST, record)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The manifest of a folder, None if it has none. Raises: CheckpointError if it is not readable."""
    path = Path(folder) / MANIFEST
    return _read_json(path) if path.is_file() else None


def member_folders(path: str | os.PathLike[str]) -> list[Path]:
    """The members' folders of an ensemble's folder; none for any other. Reads JSON only.

    Raises: CheckpointError if its ``ensemble.json`` cannot be read, or names anything but folders inside of it.
    """
    folder = Path(path)
    if not (folder / ENSEMBLE).is_file():
        return []
    members = _read_json(folder / ENSEMBLE).get("members")
    members = members if isinstance(members, list) else []
    names = [str(one.get("folder")) for one in members if isinstance(one, dict)]
    if not names or len(names) < len(members) or not all(re.fullmatch(r"member-\d+", name) for name in names):
        raise CheckpointError(
            "it does not name the members member-0, member-1 …", where=str(folder / ENSEMBLE), fix="copy the folder again"
        )
    return [folder / name for name in names]


def content_hash(path: str | os.PathLike[str]) -> str:
    """sha256 of what decides a model's answers: weights, configs, tokenizer, and an adapter's base; of an ensemble: its
    members' and their scales.

    Equal for copies of a folder at different places: records of where it came from are left out.
    """
    members = member_folders(path)
    if members:
        return fingerprint({ENSEMBLE: _read_json(Path(path) / ENSEMBLE), "members": [content_hash(one) for one in members]})
    info = inspect_checkpoint(path)
    parts: dict[str, Any] = {}
    for file in sorted(info.path.iterdir()):
        if file.name == "value_head.safetensors":
            continue  # left beside a policy by PPO, for its own resume; no answer depends on it
        if file.suffix == ".safetensors" or file.name in _TOKENIZER_FILES:
            parts[file.name] = hash_file(file)
        elif file.name in ("config.json", "adapter_config.json", "generation_config.json"):
            parts[file.name] = {
                key: value for key, value in _read_json(file).items() if key not in _PATH_KEYS
            }
    if info.kind == "adapter":
        parts["quantization"] = info.quantization
        parts["base"] = content_hash(info.base or "")
    return fingerprint(parts)


@contextlib.contextmanager
def as_full(
    path: str | os.PathLike[str], scratch: str | os.PathLike[str]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a full folder for a checkpoint: itself, or an adapter merged in fp32 under ``scratch``.

    Yields: (folder, {"route": "none" | "merge" | "dequantise", "dtype": …}), the route as in :func:`merge`.
    Raises: CheckpointError if the checkpoint is quantised: its full-precision weights are gone.
    """
    info = inspect_checkpoint(path)
    if info.kind == "quantised":
        raise CheckpointError(
            "the checkpoint is already quantised",
            where=str(info.path),
            fix="compress the full checkpoint or the adapter that it was made from",
        )
    if info.kind == "full":
        merged = (read_manifest(info.path) or {}).get("merged_from") or {}
        yield info.path, {"route": merged.get("route", "none"), "dtype": merged.get("dtype")}
        return
    folder = (
        Path(scratch)
        / f".merged-{hashlib.sha256(os.fspath(info.path).encode()).hexdigest()[:12]}-{os.getpid()}"
    )
    try:
        merge(info.path, folder, "float32")
        yield folder, {"route": "dequantise" if info.is_quantised_base else "merge", "dtype": "float32"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_safetensors(folder: Path, kind: str) -> None:
    pattern = "adapter_model*.safetensors" if kind == "adapter" else "*.safetensors"
    if any(folder.glob(pattern)):
        return
    pickles = sorted(file.name for glob in _PICKLES for file in folder.glob(glob))
    if pickles:
        raise CheckpointError(
            f"the {kind}'s weights are pickle files ({', '.join(pickles[:3])}), which can run code",
            where=str(folder),
            fix="convert them where it is safe: load, then save_pretrained writes safetensors",
        )
    raise CheckpointError(
        f"the folder holds no weights of {'an adapter' if kind == 'adapter' else 'a model'}",
        where=str(folder),
        fix=f"expected {pattern}; the copy is incomplete",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the file is not readable json ({_first_line(error)})",
            where=str(path),
            fix="restore it from its source",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            "the file holds no json object", where=str(path), fix="restore it from its source"
        )
    return value


def _first_line(error: object) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
