"""The strength of a lesson: a taught policy at α, without teaching again.

    θ(α) = θ_untaught + α · (θ_taught − θ_untaught)

α = 0 is the untaught policy, α = 1 the taught one. Between them the lesson is partly applied; above 1 it is extrapolated;
below 0 it is reversed, which makes a policy *more* biased: a probe of what was taught, never something to ship. An adapter
is scaled (its delta is linear in ``lora_alpha``), a full fine-tune is interpolated tensor by tensor in fp32.

Sources: Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv:2212.04089 (θ + α·τ, with α < 0 for negation);
Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models, arXiv:2109.01903 (the path between the two).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import CheckpointError, InputError
from teachfair.models.checkpoint import (
    MANIFEST,
    CheckpointInfo,
    content_hash,
    inspect_checkpoint,
    load_base,
    load_policy,
    merge,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOWEST, HIGHEST = -1.0, 2.0

# Initialisations that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ …) move a part of the base into the
# adapter, so that scaling the adapter to 0 does not give the untaught policy back.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Sources:
    """The two ends of a dial. Hashes are :func:`teachfair.models.checkpoint.content_hash`.

    ``verified``: the taught folder's own record names the untaught policy by hash, and it is this one. For an adapter
    ``untaught_hash`` is of the base as it lies on disk; under ``quantization`` the untaught policy is that base quantised.
    """

    kind: str
    taught: Path
    untaught: Path | str
    taught_hash: str
    untaught_hash: str
    verified: bool
    quantization: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "taught": str(self.taught), "untaught": str(self.untaught), "taught_hash": self.taught_hash,
            "untaught_hash": self.untaught_hash, "verified": self.verified, "quantization": self.quantization,
        }  # fmt: skip


@dataclass
class Dial:
    """A policy in memory whose strength can be turned; it starts at α = 1. ``model`` is changed in place."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sources: Sources
    alpha: float = 1.0
    _turn: Callable[[float], None] = field(default=lambda alpha: None, repr=False)

    def turn(self, alpha: float) -> PreTrainedModel:
        """Set the strength; returns ``model``. Raises: InputError outside [−1, 2]."""
        self._turn(check_strength(alpha))
        self.alpha = float(alpha)
        return self.model


def check_strength(alpha: float) -> float:
    """Raises: InputError for a strength outside [−1, 2] (or NaN): nothing was ever measured there."""
    if not LOWEST <= alpha <= HIGHEST:
        raise InputError(f"the strength is {alpha}", where="alpha", fix=f"give a number from {LOWEST:g} to {HIGHEST:g}")
    return float(alpha)


def find_sources(taught: str | Path, base: str | Path | None = None) -> Sources:
    """Where the two ends of the dial are, checked without loading a weight.

    Args:
        taught: a full checkpoint or an adapter folder (also on a 4-bit base).
        base: the untaught policy; by default the adapter's base, or the ``base`` of the taught folder's ``run.json``.
    Raises: CheckpointError if the base is unknown, gone, or not the one that the record names by hash; if the checkpoint is
        quantised; if an adapter's effect is not linear in its scale (DoRA, trained biases or whole modules …).
    """
    info = inspect_checkpoint(taught)
    if info.kind == "quantised":
        raise CheckpointError(
            "a quantised policy has no dial: its weights are on a grid", where=str(info.path),
            fix="turn the dial of the policy it was made from, then compress the result",
        )  # fmt: skip
    record = runs.read_record(info.path) or {}
    if record.get("kind") not in ("teach", "dial"):  # the record of another deed, where `policy` means another thing
        record = {}
    if info.kind == "adapter":
        _require_linear(info)
        untaught: Path | str | None = info.base
    else:
        untaught = base if base is not None else record.get("base")
    if untaught is None:
        raise CheckpointError(
            "it is not known which policy this one was taught from", where=str(info.path / runs.RUN_RECORD),
            fix="name it: --base_model_name_or_path",
        )  # fmt: skip
    try:
        untaught_info = inspect_checkpoint(untaught)
    except CheckpointError as error:
        raise CheckpointError(
            f"the untaught policy is gone: {untaught}", where=str(info.path),
            fix="put it back, or name it: --base_model_name_or_path"
            if info.kind == "full" else "put it back, or edit base_model_name_or_path in adapter_config.json",
        ) from error  # fmt: skip
    if info.kind == "full" and untaught_info.kind != "full":
        raise CheckpointError(
            f"a full policy was not taught from a checkpoint that is {untaught_info.kind}", where=str(untaught),
            fix="name the full checkpoint that the teaching started from: --base_model_name_or_path",
        )  # fmt: skip
    found = content_hash(untaught)
    expected = record.get("policy")
    if expected is not None and found != expected:
        raise CheckpointError(
            "this is not the policy that the lesson was taught to: its content has another hash",
            where=f"{untaught} has {found[:12]}, the record in {info.path} names {str(expected)[:12]}",
            fix="give the untaught policy as it was (--base_model_name_or_path for a full checkpoint)",
        )  # fmt: skip
    if info.kind == "adapter" and base is not None and content_hash(base) != found:
        raise CheckpointError(
            "the adapter belongs to another base than the one given", where=f"--base_model_name_or_path {base}",
            fix=f"leave it out: the adapter names {untaught}",
        )  # fmt: skip
    # A folder's absolute path, because the saved strength lies elsewhere; a hub id stays a hub id.
    place = Path(untaught).resolve() if Path(untaught).is_dir() else str(untaught)
    return Sources(info.kind, info.path, place, content_hash(taught), found, expected is not None, info.quantization)


def open_dial(
    taught: str | Path, *, base: str | Path | None = None, dtype: str = "float32", device: str | torch.device | None = None
) -> Dial:
    """Load a taught policy so that its strength can be turned in memory.

    A full policy is held three times (untaught, taught, and the one between, as far as they differ); an adapter once.
    Raises: as :func:`find_sources`, and CheckpointError if the two policies do not have the same tensors.
    """
    sources = find_sources(taught, base)
    if sources.kind == "adapter":
        model, tokenizer = load_policy(taught, dtype=dtype, device=device)
        return Dial(model, tokenizer, sources, _turn=_scaler(model, sources.taught))
    model, tokenizer = load_policy(taught, dtype="float32", device=device)
    untaught = load_base(sources.untaught, "float32", model.device)
    ends = _ends(model, untaught, sources)
    if dtype != "float32":
        import torch

        model = model.to(getattr(torch, dtype))
    return Dial(model, tokenizer, sources, _turn=_interpolator(model, ends))


def at_strength(
    taught: str | Path, out: str | Path, *, alpha: float, base: str | Path | None = None, merged: bool = False,
    dtype: str = "float32", record: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Save a taught policy at strength α as a plain checkpoint, which stock transformers and PEFT load as it is.

    A full policy becomes a full checkpoint of ``dtype`` (the sum is made in fp32). An adapter keeps its weights and gets
    ``lora_alpha`` · α, so that its loading gives the strength and its base stays where it is; with ``merged`` it is merged
    into a full checkpoint (on a 4-bit base by the dequantise route of :func:`teachfair.models.checkpoint.merge`).

    Returns: ``out``, written whole or not at all; ``run.json`` and ``teachfair.json`` say α and both sources' hashes.
    Raises: InputError outside [−1, 2]; RunFolderError if ``out`` is taken; CheckpointError as in :func:`find_sources`.
    """
    alpha = check_strength(alpha)
    sources = find_sources(taught, base)
    facts = {"alpha": alpha, **sources.as_dict()}
    with runs.whole_folder(out) as aside:
        if sources.kind == "full":
            dial = open_dial(taught, base=base)
            model = dial.turn(alpha)
            if dtype != "float32":
                import torch

                model = model.to(getattr(torch, dtype))
            model.save_pretrained(aside)
            dial.tokenizer.save_pretrained(aside)
            write_manifest(aside, base=None, dial=facts)
        elif merged:
            with tempfile.TemporaryDirectory(dir=aside.parent) as scratch:
                _scaled_adapter(sources, Path(scratch) / "adapter", alpha, facts)
                merge(Path(scratch) / "adapter", Path(scratch) / "merged", dtype)
                for file in sorted((Path(scratch) / "merged").iterdir()):
                    shutil.move(str(file), aside / file.name)
            merged_from = (read_manifest(aside) or {}).get("merged_from")
            write_manifest(aside, base=None, merged_from=merged_from, dial=facts)
        else:
            _scaled_adapter(sources, aside, alpha, facts)
        runs.write_record(
            aside, kind="dial", policy=sources.untaught_hash, base=str(sources.untaught), dial=facts,
            hash=content_hash(aside), **(record or {}),
        )  # fmt: skip
    return Path(out)


def _require_linear(info: CheckpointInfo) -> None:
    """Raises: CheckpointError unless the adapter's whole effect is a delta proportional to ``lora_alpha``."""
    path = info.path / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    problems = []
    if config.get("peft_type") != "LORA":
        problems.append(f"it is a {config.get('peft_type')} adapter, not LoRA")
    if config.get("use_dora"):
        problems.append("DoRA rescales whole columns, which is not linear in its scale")
    if config.get("bias", "none") != "none":
        problems.append(f"biases were trained as well (bias: {config['bias']})")
    for key in ("modules_to_save", "trainable_token_indices"):
        if config.get(key):
            problems.append(f"weights outside the low-rank delta were trained ({key})")
    if config.get("init_lora_weights", True) not in _PLAIN_INITIALISATIONS:
        problems.append(f"its initialisation {config['init_lora_weights']!r} changed the base")
    if problems:
        raise CheckpointError(
            f"the adapter's strength cannot be dialled by its scale: {'; '.join(problems)}", where=str(path),
            fix="merge it (teachfair compress --compression none) and dial the full checkpoint, with "
            "--base_model_name_or_path naming the untaught one",
        )  # fmt: skip


def _scaler(model: Any, where: Path) -> Callable[[float], None]:
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise CheckpointError(
            "the adapter has no LoRA layer in this model", where=str(where), fix="check target_modules in its config"
        )

    def turn(alpha: float) -> None:
        for layer in layers:
            for name in layer.scaling:
                layer.set_scale(name, alpha)

    return turn


def _ends(model: Any, untaught: Any, sources: Sources) -> dict[str, tuple[Any, Any]]:
    """name -> (untaught, taught) of every tensor in which the two policies differ.

    Raises: CheckpointError if one has tensors that the other lacks, or of another shape; tied weights count once.
    """
    here, there = _tensors(model), _tensors(untaught)
    odd = sorted(set(here) ^ set(there))
    if odd:
        raise CheckpointError(
            f"the two policies do not have the same tensors: {len(odd)} are only in one, the first is {odd[0]}",
            where=f"{sources.taught} and {sources.untaught}",
            fix="give the policy that this one was taught from; both tie their embeddings or neither does",
        )  # fmt: skip
    ends = {}
    for name, tensor in here.items():
        other = there[name]
        if other.shape != tensor.shape:
            raise CheckpointError(
                f"{name} has the shape {tuple(tensor.shape)} when taught and {tuple(other.shape)} untaught",
                where=f"{sources.taught} and {sources.untaught}",
                fix="give the policy that this one was taught from; tokens added while teaching leave nothing to subtract",
            )  # fmt: skip
        if not bool((tensor == other).all()):
            if not tensor.is_floating_point():
                raise CheckpointError(
                    f"{name} holds whole numbers and differs, so there is nothing between the two",
                    where=f"{sources.taught} and {sources.untaught}", fix="give the policy that this one was taught from",
                )  # fmt: skip
            ends[name] = (other.detach().clone(), tensor.detach().clone())
    return ends


def _tensors(model: Any) -> dict[str, Any]:
    """Parameters and saved buffers by name; a tied tensor once, under the name that the model gives it first."""
    saved = set(model.state_dict())
    tensors = dict(model.named_parameters())
    return tensors | {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _interpolator(model: Any, ends: dict[str, tuple[Any, Any]]) -> Callable[[float], None]:
    import torch

    places = _tensors(model)

    def turn(alpha: float) -> None:
        with torch.no_grad():
            for name, (untaught, taught) in ends.items():
                places[name].copy_(torch.lerp(untaught, taught, alpha))  # exact at 0 and at 1

    return turn


def _scaled_adapter(sources: Sources, out: Path, alpha: float, facts: dict[str, Any]) -> None:
    """Copy an adapter folder with its scale multiplied by α; its weights stay as they are, byte by byte."""
    out.mkdir(parents=True, exist_ok=True)
    left = {runs.RUN_RECORD, runs.LOCK, MANIFEST, "adapter_config.json", "README.md", "value_head.safetensors"}
    for file in sorted(sources.taught.iterdir()):
        if file.is_file() and file.name not in left:
            shutil.copyfile(file, out / file.name)
    config = json.loads((sources.taught / "adapter_config.json").read_text(encoding="utf-8"))
    config["lora_alpha"] = _scaled(config["lora_alpha"], alpha)
    config["alpha_pattern"] = {layer: _scaled(value, alpha) for layer, value in (config.get("alpha_pattern") or {}).items()}
    config["base_model_name_or_path"] = str(sources.untaught)  # a base beside the taught folder is not beside this one
    runs.write_json(out / "adapter_config.json", config)
    write_manifest(out, base=str(sources.untaught), quantization=sources.quantization, dial=facts)


def _scaled(lora_alpha: float, alpha: float) -> float | int:
    value = lora_alpha * alpha
    return int(value) if float(value).is_integer() else value
