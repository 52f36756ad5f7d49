"""One way to run any TRL trainer: resume from the last good checkpoint, stop on NaN, leave nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import CheckpointError, NonFiniteError

if TYPE_CHECKING:
    from transformers import Trainer


def fp32_trainables(model: Any) -> None:
    """Cast trainable parameters to fp32.

    TRL casts the adapter of a 4- or 8-bit model to bf16. Without bf16 autocast that makes a resumed run differ from an
    unbroken one (the adapter comes back as fp32) and crashes a reward head. Must be called before ``train()``, which
    builds the optimizer. Not done under bf16 autocast, DeepSpeed or FSDP, which keep their own master weights.
    """
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def fit(trainer: Trainer, *, resume: bool | str | None = None) -> dict[str, Any]:
    """Train to the end, or from where a killed run stopped.

    Args:
        trainer: any TRL or transformers trainer, built from *paths* (a reference model is re-read from disk).
        resume: None or True → the newest checkpoint under ``args.output_dir`` whose seal verifies, if there is one;
            a path → that checkpoint; False → from the start.
    Returns: ``{"train_loss", "steps", "resumed_from"}``.
    Raises: NonFiniteError naming the step if the loss, a gradient or a weight is not finite; nothing of that step is
        kept. CheckpointError if a named checkpoint is damaged.
    """
    from teachfair.models.sealing import SealCheckpoints, StopOnNonFinite, last_good, verify

    args = trainer.args
    # The default filter replaces a NaN loss by 0.0 in the log, and the run then saves NaN weights with exit code 0.
    args.logging_nan_inf_filter = False
    trainer.add_callback(StopOnNonFinite())
    trainer.add_callback(SealCheckpoints())
    if not (args.bf16 or args.fp16 or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        fp32_trainables(trainer.model)

    checkpoint: Path | None = None
    if isinstance(resume, str) and resume.lower() not in ("true", "false"):
        checkpoint = Path(resume)
        problems = verify(checkpoint)
        if problems:
            raise CheckpointError(
                f"the checkpoint cannot be trusted: {'; '.join(problems[:3])}", where=resume,
                fix="resume from an earlier one, or pass --resume_from_checkpoint true for the newest good one",
            )  # fmt: skip
    elif resume not in (False, "false", "False"):
        checkpoint = last_good(args.output_dir)
    loss = None
    finished = checkpoint is not None and _step_of(checkpoint) >= _planned_steps(trainer)
    if finished and checkpoint is not None:
        # Resuming a run that had finished its max_steps mid-epoch would take one step too many.
        trainer._load_from_checkpoint(str(checkpoint))
    else:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        loss = float(result.training_loss)
    refuse_non_finite_weights(trainer.model, step=trainer.state.global_step)
    return {
        "train_loss": loss,
        "steps": _planned_steps(trainer) if finished else trainer.state.global_step,
        "resumed_from": str(checkpoint) if checkpoint else None,
    }


def finish(trainer: Trainer) -> None:
    """Wait for every rank, then close trackers. Ending before the other ranks are done hangs gloo at exit."""
    trainer.accelerator.wait_for_everyone()
    if hasattr(trainer, "end"):
        trainer.end()


def refuse_non_finite_weights(model: Any, *, step: int) -> None:
    """Raises: NonFiniteError naming the first parameter that holds NaN or infinity."""
    from teachfair.models.sealing import first_non_finite

    name = first_non_finite(model)
    if name is not None:
        raise NonFiniteError(
            "the weights are not finite any more", where=f"step {step}, {name}",
            fix="lower --learning_rate, or look for broken rows in the data; nothing of this step was saved",
        )  # fmt: skip


def _step_of(checkpoint: Path) -> int:
    tail = checkpoint.name.rsplit("-", 1)[-1]
    return int(tail) if tail.isdigit() else -1


def _planned_steps(trainer: Trainer) -> int:
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    per_epoch = max(len(trainer.get_train_dataloader()) // args.gradient_accumulation_steps, 1)
    return int(per_epoch * args.num_train_epochs)
