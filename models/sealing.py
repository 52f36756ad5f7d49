"""Checkpoints of a training run that are whole or never used, and a run that stops at the first NaN.

The Trainer writes into a checkpoint's final folder, so a killed run leaves half a checkpoint that looks like
one; a missing optimizer file or a flipped bit is not noticed on resume. Here a checkpoint counts only with
its ``SEAL.json``, which holds the sha256 of every file and is written last and renamed into place.

This module defines callbacks and therefore imports transformers; import it where a trainer is built.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from teachfair.errors import CheckpointError, ConfigError, NonFiniteError
from teachfair.runs import hash_file, write_json

SEAL = "SEAL.json"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Not "checkpoint-4.damaged": the Trainer's own rotation and search take any name that begins with
# "checkpoint-".
_QUARANTINE = "quarantined-"
_log = logging.getLogger(__name__)


def seal(folder: str | Path) -> Path:
    """Write ``SEAL.json`` into a checkpoint folder: sha256 and size of every file in it.

    Returns: the seal's path. Raises: CheckpointError if the folder is absent or empty.
    """
    folder = Path(folder)
    files = _files(folder)
    if not files:
        raise CheckpointError(
            "there is nothing to seal", where=str(folder), fix="seal a checkpoint folder after it was written"
        )
    return write_json(
        folder / SEAL,
        {
            "files": {
                name: {"sha256": hash_file(folder / name), "bytes": (folder / name).stat().st_size}
                for name in files
            }
        },
    )


def verify(folder: str | Path) -> list[str]:
    """What is wrong with a sealed checkpoint, in words; an empty list if nothing is."""
    folder = Path(folder)
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in sealed.items()}
    except FileNotFoundError:
        return [f"{SEAL} is missing: the checkpoint was not finished"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{SEAL} is not readable"]
    faults = [] if expected else [f"{SEAL} names no file"]
    for name, (digest, size) in sorted(expected.items()):
        path = folder / name
        try:
            if not path.is_file():
                faults.append(f"{name} is missing")
            elif path.stat().st_size != size:
                faults.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
            elif hash_file(path) != digest:
                faults.append(f"{name} has other bytes than were sealed")
        except OSError as error:
            faults.append(f"{name} cannot be read ({error.strerror})")
    # A file that came later may be loaded instead of a sealed one (a shard index, an adapter, a pickle).
    faults += [
        f"{name} was added after sealing"
        for name in _files(folder)
        if name not in expected and Path(name).suffix in (".safetensors", ".bin", ".json", ".pt", ".pth")
    ]
    return faults


def last_good(output_dir: str | Path, *, before: int | None = None) -> Path | None:
    """The newest checkpoint (by step, not by clock) of a run whose seal holds; None if there is none.

    ``before``: only checkpoints of earlier steps than this one; later ones are not looked at.

    Unsealed and damaged checkpoints that are newer are renamed to ``quarantined-checkpoint-N`` and named in
    the log, so that nothing resumes from them by accident; none is deleted.
    """
    output_dir = Path(output_dir)
    steps = sorted(_checkpoints(output_dir), reverse=True)
    for step, folder in steps:
        if before is not None and step >= before:
            continue
        faults = verify(folder)
        if not faults:
            return folder
        aside = _free_name(output_dir / f"{_QUARANTINE}{folder.name}")
        folder.rename(aside)
        _log.warning("%s is not used: %s; moved to %s", folder, "; ".join(faults[:3]), aside.name)
    return None


def _checkpoints(output_dir: Path) -> Iterator[tuple[int, Path]]:
    if not output_dir.is_dir():
        return
    for folder in output_dir.iterdir():
        match = _CHECKPOINT.fullmatch(folder.name)
        if match and folder.is_dir() and not folder.is_symlink():
            yield int(match[1]), folder


def _free_name(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _files(folder: Path) -> list[str]:
    """Relative names of a checkpoint's files, but for the seal and what a killed write left of it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not (path.parent == folder and path.name.lstrip(".").startswith(SEAL))
    )


def first_non_finite(model: Any, optimizer: Any = None) -> str | None:
    """Name of the first weight or optimizer state that holds NaN or infinity; None if all are finite."""
    import torch

    def broken(tensor: Any) -> bool:
        return (
            isinstance(tensor, torch.Tensor)
            and tensor.is_floating_point()
            and not bool(torch.isfinite(tensor).all())
        )

    names = {}
    if model is not None:
        for name, parameter in model.named_parameters():
            names[parameter] = name
            if broken(parameter.detach()):
                return name
    states = getattr(optimizer, "state", None) or {}
    for parameter, state in states.items():
        for key, value in state.items() if isinstance(state, dict) else ():
            if broken(value):
                return f"optimizer state {key} of {names.get(parameter, 'a parameter')}"
    return None


class StopOnNonFinite(TrainerCallback):
    """Stop a run at the first loss, gradient norm, weight or optimizer state that is NaN or infinite.

    By default the Trainer replaces a NaN loss in its log (``logging_nan_inf_filter``), goes on and saves the
    NaN weights with exit code 0. Loss and gradient norm are checked at every logged step, weights and
    optimizer state before every save and at the end of training.

    Raises (out of ``trainer.train()``): NonFiniteError that names the step and the quantity or tensor. A
    checkpoint that was being written with non-finite weights is removed; earlier ones stay.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        args.logging_nan_inf_filter = False  # read at every step; with the filter on, the log shows 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            try:
                finite = value is None or math.isfinite(float(value))
            except (TypeError, ValueError):
                continue  # some trainers log text
            if not finite:
                raise _non_finite(state, f"{name} is {value}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer's own callback comes first and has decided by now whether this step is saved.
        if control.should_save:
            _require_finite(state, kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            _require_finite(state, kwargs)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _require_finite(state, kwargs, written=_folder(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _require_finite(state, kwargs)  # the final save_model() comes after this


class SealCheckpoints(TrainerCallback):
    """Seal every checkpoint that the Trainer writes; one with non-finite weights is removed instead.

    Resume with ``trainer.train(resume_from_checkpoint=last_good(output_dir))``.

    Raises: ConfigError at the start if ``save_total_limit`` is 1: the Trainer would delete the last good
        checkpoint before the new one is sealed. NonFiniteError as :class:`StopOnNonFinite`.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.save_total_limit == 1:
            raise ConfigError(
                "with save_total_limit 1 the last good checkpoint is deleted before the next one is sealed",
                where="--save_total_limit",
                fix="set it to 2 or more",
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank writes its random state into the same folder
        folder = _folder(args, state)
        _require_finite(state, kwargs, written=folder)
        if state.is_world_process_zero and folder.is_dir():
            seal(folder)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _require_finite(state: TrainerState, kwargs: dict[str, Any], written: Path | None = None) -> None:
    tensor = first_non_finite(kwargs.get("model"), kwargs.get("optimizer"))
    if tensor is None:
        return
    if written is not None and state.is_world_process_zero:
        shutil.rmtree(written, ignore_errors=True)
    raise _non_finite(state, f"{tensor} holds NaN or infinity")


def _non_finite(state: TrainerState, what: str) -> NonFiniteError:
    return NonFiniteError(
        f"training diverged: {what}",
        where=f"step {state.global_step}",
        fix="lower the learning rate or check the data; this step was not saved, earlier ones are intact",
    )
