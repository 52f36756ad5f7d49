"""One way to run any TRL trainer: all launched processes together, resumed from the last good checkpoint, stopped on NaN."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import CheckpointError, ConfigError, NonFiniteError

if TYPE_CHECKING:
    from transformers import Trainer


ONE_PROCESS = "TEACHFAIR_ONE_PROCESS"  # set to 1: training alone in the middle of several tasks is what is wanted


def check_processes() -> None:
    """Every training door calls this before it spends time: do the processes that were launched train together?

    Several launchers start processes that each take themselves for the only one, or start one where several were asked
    for; training then runs to its end with another global batch than the one that was asked for.

    Raises: ConfigError naming the launcher. Setting ``TEACHFAIR_ONE_PROCESS=1`` switches off what is said about
        accelerate, Slurm and MPI, for independent runs side by side.
    """
    from accelerate import PartialState

    together = PartialState().num_processes
    if together > 1:
        atexit.register(_leave_the_group)
    environment, at_start = dict(os.environ), _environment_of("self")
    if at_start and "MASTER_PORT" not in at_start:
        environment.pop("MASTER_PORT", None)  # set by a library since, not by the launcher
    found = launched(environment, _environment_of(str(os.getppid())))
    if found is None or found[0] == together:
        return
    number, launcher = found
    if launcher == "torchrun":
        raise ConfigError(
            f"{number} processes were launched, but they do not train together (this one counts {together})",
            where="torchrun / accelerate launch", fix="add --use_cpu true on a host without accelerators, or launch one",
        )  # fmt: skip
    if together > 1 or os.environ.get(ONE_PROCESS) == "1":
        return
    if launcher == "accelerate":
        raise ConfigError(
            "accelerate was asked for several processes and started one: on a CPU its launcher does not start more",
            where="accelerate launch --num_processes (or num_processes in its config file)",
            fix="torchrun --nproc_per_node 2 recipes/… --use_cpu true, or accelerate launch --num_processes 1",
        )  # fmt: skip
    raise ConfigError(
        f"{launcher} started {number} tasks, but they do not train together (this one counts {together})",
        where=f"{launcher}, number of tasks",
        fix="start one torchrun or accelerate launch a node (--ntasks-per-node 1), or one task; for independent runs side "
        f"by side set {ONE_PROCESS}=1",
    )  # fmt: skip


def launched(environment: Mapping[str, str], parent: Mapping[str, str]) -> tuple[int | None, str] | None:
    """(number of processes, launcher) as the environment tells it, or None where one process was started plainly.

    Args: parent: the environment of the parent process, empty where it cannot be read.

    torchrun, and accelerate through it, say WORLD_SIZE. accelerate's launcher for CPUs starts one process whatever
    ``--num_processes`` is, without WORLD_SIZE; for more than one it sets MASTER_PORT (number: None). A user may have set
    that for another purpose: then the launcher itself, the parent, has it too. In a batch script Slurm sets SLURM_NTASKS
    for plain commands as well; only ``srun`` sets SLURM_STEP_NUM_TASKS.
    """
    world = environment.get("WORLD_SIZE", "")
    if world.isdigit():
        return int(world), "torchrun"
    port = environment.get("MASTER_PORT")
    if "ACCELERATE_MIXED_PRECISION" in environment and port is not None and parent.get("MASTER_PORT") != port:
        return None, "accelerate"
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_PROCID" in environment and tasks.isdigit() and int(tasks) > 1:
        return int(tasks), "srun"
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        if environment.get(name, "").isdigit() and int(environment[name]) > 1:
            return int(environment[name]), "mpirun"
    return None


def _environment_of(process: str) -> dict[str, str]:
    try:
        content = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return {}
    entries = (entry.partition(b"=") for entry in content.split(b"\0"))
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, _, value in entries}


def _leave_the_group() -> None:
    """Leave the process group while the interpreter still stands.

    gloo's worker threads hold their last collective, and with it Python objects, until they get the GIL once more. Where
    that happens while Python shuts down, the process aborts after all its work is done ("terminate called without an
    active exception"), and the launcher reports a failed run. The group's destructor joins those threads, if nothing else
    holds the group; else the pause lets them have the GIL (it is long against a thread switch, not against a run).
    """
    import torch.distributed as dist

    gc.collect()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    time.sleep(0.2)


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
    from transformers import TrainerState

    from teachfair.models.sealing import SealCheckpoints, StopOnNonFinite, last_good, verify

    args = trainer.args
    atexit.unregister(_leave_the_group)  # after an error in a backward pass, joining gloo's threads would wait for the peers
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
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))  # its log goes into the record
    else:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        loss = float(result.training_loss)
    refuse_non_finite_weights(trainer.model, step=trainer.state.global_step)
    if trainer.accelerator.num_processes > 1:
        atexit.register(_leave_the_group)
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
