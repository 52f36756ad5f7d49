"""Teach by direct preference optimisation, with TRL's ``DPOTrainer`` as it is.

Loss (Rafailov et al. 2023, eq. 7), for a prompt x with the fair answer y_w and the unfair one y_l:

    L = −log σ( β·[log π(y_w|x) − log π_ref(y_w|x)] − β·[log π(y_l|x) − log π_ref(y_l|x)] )

A larger β keeps the policy closer to the reference. Full fine-tuning, LoRA and QLoRA differ only in ``peft_config``
and ``quantization_config``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import ConfigError, TeachfairError

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig
    from trl import DPOConfig

CARD = {
    "name": "dpo",
    "meaning": "direct preference optimisation on fair/unfair pairs",
    "paper": "Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290",
}


def teach(
    policy: str | Path,
    pairs: Dataset,
    out: str | Path,
    *,
    args: DPOConfig,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """Teach ``policy`` with preference ``pairs``; write the taught checkpoint to ``out``.

    Args:
        policy: a checkpoint folder or hub id; never a model in memory, because the reference is re-read from it.
        pairs: rows of ``teachfair.data.pairs`` (conversational ``prompt, chosen, rejected``).
        out: output folder. It is complete when its ``run.json`` says so; a killed run goes on from its last sealed
            checkpoint when called again with the same arguments.
        args: TRL's own; ``output_dir`` is set to ``out``.
        peft_config, quantization_config: LoRA; with a 4-bit base as well, QLoRA.
        record: further fields for ``run.json`` (where the pairs came from, what ranked them).
    Returns: ``out``: a full checkpoint, or an adapter with the base and its quantisation named in ``teachfair.json``.
    Raises: ConfigError (no pairs, a policy that is itself an adapter), CheckpointError, RunFolderError, NonFiniteError.
    """
    from teachfair.models.chat import ensure_chat_template, ensure_pad_token
    from teachfair.models.checkpoint import content_hash, inspect_checkpoint, load_tokenizer, write_manifest

    out = Path(out)
    if len(pairs) == 0:
        raise ConfigError("there are no pairs to teach from", where="the training set", fix="check --dataset_name")
    info = inspect_checkpoint(policy)
    if info.kind == "adapter":
        raise ConfigError(
            "the policy is an adapter; teaching starts from a whole checkpoint", where=str(policy),
            fix="merge it first: teachfair compress --compression none --model_name_or_path … --output_dir …",
        )  # fmt: skip
    if quantization_config is not None and peft_config is None:
        raise ConfigError(
            "a quantised policy can only be taught through an adapter", where="--load_in_4bit / --load_in_8bit",
            fix="add --use_peft (QLoRA), or leave the quantisation out",
        )  # fmt: skip
    args.output_dir = str(out)
    quantization = quantization_config.to_dict() if quantization_config is not None else None
    decides = {
        "method": "dpo",
        "policy": content_hash(policy),
        "pairs": pairs_hash(pairs),
        "args": _deciding(args.to_dict()),
        "peft": _plain_config(peft_config),
        "quantization": quantization,
        "trl": runs.versions().get("trl"),
    }
    key = runs.fingerprint(decides)
    with runs.claimed(out):
        if runs.begin(out, key):
            return out
        tokenizer = load_tokenizer(policy)
        ensure_chat_template(tokenizer)
        ensure_pad_token(tokenizer)
        trainer = _trainer(policy, pairs, tokenizer, args, peft_config, quantization_config)
        result = _fit(trainer, args)
        if trainer.is_world_process_zero():
            trainer.save_model(str(out))
            (out / "training_args.bin").unlink(missing_ok=True)  # a pickle has no place in a published folder
            trainer.create_model_card(model_name=out.name)
            if peft_config is not None:
                write_manifest(out, base=str(policy), quantization=quantization)
            runs.write_record(
                out, key=key, kind="teach", **decides, base=str(policy), n_pairs=len(pairs), seed=args.seed,
                steps=result["steps"], train_loss=result["train_loss"], log=trainer.state.log_history,
                hash=content_hash(out), peak_gib=runs.peak_memory_gib(), device=str(args.device), **(record or {}),
            )  # fmt: skip
        _finish(trainer)
    return out


def _trainer(
    policy: str | Path,
    pairs: Dataset,
    tokenizer: Any,
    args: DPOConfig,
    peft_config: PeftConfig | None,
    quantization_config: BitsAndBytesConfig | None,
) -> Any:
    from transformers import PrinterCallback, set_seed
    from trl import DPOTrainer

    from teachfair.models.checkpoint import keep_compute_dtype

    set_seed(args.seed)  # LoRA's initial weights are drawn when the trainer is built
    args.model_init_kwargs = {"dtype": "float32", "use_safetensors": True, **(args.model_init_kwargs or {})}
    try:
        trainer = DPOTrainer(
            model=str(policy),
            args=args,
            train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
            processing_class=tokenizer,
            peft_config=peft_config,
            quantization_config=quantization_config,
        )
        if quantization_config is not None:
            keep_compute_dtype(trainer.model)  # or bitsandbytes rounds the base's scales on some CPUs, for good
        trainer.remove_callback(PrinterCallback)  # without a bar it prints a dict per log; the record has the log
        return trainer
    except TeachfairError:
        raise
    except (ValueError, TypeError) as error:  # TRL's own checks of argument combinations
        raise ConfigError(
            str(error).split("\n")[0], where="TRL's DPOTrainer", fix="see the arguments named there"
        ) from error


def _fit(trainer: Any, args: DPOConfig) -> dict[str, Any]:
    from teachfair.models.fitting import fit

    return fit(trainer, resume=args.resume_from_checkpoint)


def _finish(trainer: Any) -> None:
    from teachfair.models.fitting import finish

    finish(trainer)


def pairs_hash(pairs: Dataset) -> str:
    """sha256 over the three texts of every pair, in order."""
    texts = pairs.select_columns(["prompt", "chosen", "rejected"])
    return runs.fingerprint([[row["prompt"], row["chosen"], row["rejected"]] for row in texts])


def _deciding(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments that decide the weights: not where they go, how they are logged, or how often they are saved."""
    skip = ("output_dir", "logging", "report_to", "run_name", "save_", "hub_", "push_to_hub", "disable_tqdm",
            "resume_from_checkpoint", "log_level", "project", "trackio", "dataloader_num_workers")  # fmt: skip
    return {key: value for key, value in args.items() if not key.startswith(skip) and _is_json(value)}


def _plain_config(config: PeftConfig | None) -> dict[str, Any] | None:
    if config is None:
        return None
    return runs.plain({key: value for key, value in config.to_dict().items() if key != "base_model_name_or_path"})


def _is_json(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | type(None))
