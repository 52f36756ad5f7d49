"""Kill a training run at its write events; the same command must then end with the same weights."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from teachfair.runs import hash_file

_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def train(model_folder: Path, out: Path) -> None:
    """Six steps, checkpoints at 2, 4, 6, going on from the last good one; final weights in ``out/final``."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

    from teachfair.models.sealing import SealCheckpoints, StopOnNonFinite, last_good

    set_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(4, 60, (24, 8)).tolist()]
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=6,
        save_steps=2,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        bf16=False,
        use_cpu=True,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        disable_tqdm=True,
    )
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(model_folder),
        arguments,
        train_dataset=rows,
        callbacks=[StopOnNonFinite(), SealCheckpoints()],
    )
    resume = last_good(out)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_model(str(out / "final"))


def in_a_fork(model_folder: Path, out: Path, kill_at: int | None) -> tuple[int, int]:
    """Train in a fork, killed at its ``kill_at``-th write under ``out``. Returns (exit status, writes)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            seen = 0

            def hook(event: str, arguments: tuple) -> None:
                nonlocal seen
                writes = event in _WRITES or (
                    event == "open"
                    and isinstance(arguments[2], int)
                    and arguments[2] & (os.O_WRONLY | os.O_RDWR)
                )
                if writes and str(arguments[0]).startswith(str(out)):
                    if seen == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    seen += 1
                    os.write(writer, b".")

            sys.addaudithook(hook)
            train(model_folder, out)
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(writer)
    writes = 0
    while block := os.read(reader, 4096):
        writes += len(block)
    os.close(reader)
    return os.waitpid(child, 0)[1], writes


def kill_and_resume(model_folder: Path, folder: Path, points: int | None) -> None:
    import torch
    import transformers  # noqa: F401  (imported once, before the forks)

    torch.set_num_threads(1)
    status, writes = in_a_fork(model_folder, folder / "unbroken", None)
    assert status == 0
    assert writes > 30
    expected = hash_file(folder / "unbroken" / "final" / "model.safetensors")
    chosen = range(writes) if points is None else [index * writes // points for index in range(points)]
    wrong = []
    for kill_at in chosen:
        out = folder / f"killed-{kill_at}"
        status, _ = in_a_fork(model_folder, out, kill_at)
        assert os.WIFSIGNALED(status), f"the run was not killed at write {kill_at}"
        status, _ = in_a_fork(model_folder, out, None)
        final = out / "final" / "model.safetensors"
        if status != 0 or not final.is_file() or hash_file(final) != expected:
            wrong.append(kill_at)
        shutil.rmtree(out)
    assert wrong == [], f"of {len(list(chosen))} kill points, these did not resume to the same weights"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; runs on Linux and macOS")
def test_a_run_killed_while_saving_resumes_to_the_same_weights(tiny_llama: Path, tmp_path: Path):
    kill_and_resume(tiny_llama, tmp_path, points=3)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; runs on Linux and macOS")
def test_a_run_killed_at_any_write_resumes_to_the_same_weights(tiny_llama: Path, tmp_path: Path):
    kill_and_resume(tiny_llama, tmp_path, points=None)
