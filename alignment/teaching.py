"""What every teaching method shares: the checks of the policy, the fingerprint, and one folder that is whole or resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import ConfigError, RunFolderError, TeachfairError

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig


def check_policy(
    policy: str | Path, peft_config: PeftConfig | None, quantization_config: BitsAndBytesConfig | None
) -> None:
    """Raises: ConfigError for a policy that is an adapter, or quantisation without an adapter to train; CheckpointError."""
    from teachfair.models.checkpoint import inspect_checkpoint

    if inspect_checkpoint(policy).kind == "adapter":
        raise ConfigError(
            "the policy is an adapter; teaching starts from a whole checkpoint", where=str(policy),
            fix="merge it first: teachfair compress --compression none --model_name_or_path … --output_dir …",
        )  # fmt: skip
    if quantization_config is not None and peft_config is None:
        raise ConfigError(
            "a quantised policy can only be taught through an adapter", where="--load_in_4bit / --load_in_8bit",
            fix="add --use_peft (QLoRA), or leave the quantisation out",
        )  # fmt: skip


def deciding_facts(
    method: str, policy: str | Path, args: Any, peft_config: Any, quantization_config: Any, **more: Any
) -> dict[str, Any]:
    """Everything that decides the taught weights: the material of the run's fingerprint, and part of its record."""
    from teachfair.models.checkpoint import content_hash

    return {
        "method": method,
        "policy": content_hash(policy),
        **more,
        "args": deciding_arguments(args.to_dict()),
        "peft": _plain_config(peft_config),
        "quantization": quantization_config.to_dict() if quantization_config is not None else None,
        "trl": runs.versions().get("trl"),
    }


def deciding_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments that decide the weights: not where they go, how they are logged, or how often they are saved."""
    skip = ("output_dir", "logging", "log_completions", "report_to", "run_name", "save_", "hub_", "push_to_hub",
            "disable_tqdm", "resume_from_checkpoint", "log_level", "project", "trackio",
            "dataloader_num_workers")  # fmt: skip
    return {key: value for key, value in args.items() if not key.startswith(skip) and _is_json(value)}


def prepare(trainer_class: str, build: Callable[[], Any], args: Any) -> Any:
    """Build a trainer from seeded initial weights, with TRL's own complaints as errors that name it."""
    from transformers import PrinterCallback, set_seed

    from teachfair.models.checkpoint import keep_compute_dtype

    set_seed(args.seed)  # LoRA's initial weights are drawn when the trainer is built
    args.model_init_kwargs = {"dtype": "float32", "use_safetensors": True, **(args.model_init_kwargs or {})}
    try:
        trainer = build()
    except TeachfairError:
        raise
    except (ValueError, TypeError) as error:  # TRL's own checks of argument combinations
        raise ConfigError(
            str(error).split("\n")[0], where=f"TRL's {trainer_class}", fix="see the arguments named there"
        ) from error
    keep_compute_dtype(trainer.model)  # or bitsandbytes rounds a 4-bit base's scales on some CPUs, for good
    trainer.remove_callback(PrinterCallback)  # without a bar it prints a dict per log; the record has the log
    return trainer


def teach_into(
    out: Path, decides: dict[str, Any], build: Callable[[], Any], *, args: Any, policy: str | Path,
    record: Callable[[Any], dict[str, Any]],
) -> Path:  # fmt: skip
    """Train ``build()`` into ``out``: resumed if it was killed, untouched if it is complete.

    Args:
        decides: :func:`deciding_facts`.
        record: called with the trained trainer; further fields of ``run.json``.
    Returns: ``out``, with the checkpoint (or adapter and ``teachfair.json``) and, last, ``run.json``.
    """
    from teachfair.models.checkpoint import content_hash, write_manifest
    from teachfair.models.fitting import finish, fit

    args.output_dir = str(out)
    key = runs.fingerprint(decides)
    with run_folder(out, key) as is_complete:
        if is_complete:
            return out
        trainer = build()
        result = fit(trainer, resume=args.resume_from_checkpoint)
        if trainer.is_world_process_zero():
            trainer.save_model(str(out))
            (out / "training_args.bin").unlink(missing_ok=True)  # a pickle has no place in a published folder
            trainer.create_model_card(model_name=out.name)
            if decides["peft"] is not None:
                write_manifest(out, base=str(policy), quantization=decides["quantization"])
            runs.write_record(
                out, key=key, kind="teach", **decides, base=str(policy), seed=args.seed, steps=result["steps"],
                train_loss=result["train_loss"], log=trainer.state.log_history, hash=content_hash(out),
                peak_gib=runs.peak_memory_gib(), device=str(args.device), **record(trainer),
            )  # fmt: skip
        finish(trainer)
    return out


@contextlib.contextmanager
def run_folder(out: Path, key: str) -> Iterator[bool]:
    """Hold ``out`` for this run, all its ranks together; yields whether the run is already complete.

    Raises: RunFolderError, on every rank, if another run holds the folder or has filled it. ConfigError if the processes
        that were launched do not know of each other.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from teachfair.models.fitting import check_processes

    check_processes()
    state = PartialState()
    if state.num_processes == 1:
        with runs.claimed(out):
            yield runs.begin(out, key)
        return
    with contextlib.ExitStack() as stack:
        answer: list[Any] = [None, None]
        error: RunFolderError | None = None
        if state.is_main_process:
            try:
                stack.enter_context(runs.claimed(out))
                answer = [runs.begin(out, key), None]
            except RunFolderError as refused:
                error, answer = refused, [None, str(refused)]
        broadcast_object_list(answer)
        if error is not None:
            raise error
        if answer[1] is not None:
            raise RunFolderError("the first process cannot use the output folder", where=str(out), fix=answer[1])
        yield answer[0]


def _plain_config(config: PeftConfig | None) -> dict[str, Any] | None:
    if config is None:
        return None
    return runs.plain({key: value for key, value in config.to_dict().items() if key != "base_model_name_or_path"})


def _is_json(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | type(None))
