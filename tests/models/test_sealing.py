from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from teachfair.errors import CheckpointError, ConfigError, NonFiniteError
from teachfair.models.sealing import (
    SEAL,
    SealCheckpoints,
    StopOnNonFinite,
    first_non_finite,
    last_good,
    seal,
    verify,
)


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished Trainer run of 6 steps with sealed checkpoints 2, 4, 6."""
    out = tmp_path_factory.mktemp("run")
    trainer(tiny_llama, out).train()
    return out


def trainer(model_folder: Path, out: Path, callbacks=None, **arguments):
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

    set_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(4, 60, (24, 8)).tolist()]
    settings = {
        "output_dir": str(out),
        "max_steps": 6,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        **arguments,
    }
    return Trainer(
        AutoModelForCausalLM.from_pretrained(model_folder),
        TrainingArguments(**settings),
        train_dataset=rows,
        callbacks=[StopOnNonFinite(), SealCheckpoints()] if callbacks is None else callbacks,
    )


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def test_every_checkpoint_of_a_run_is_sealed_and_the_newest_is_found(run: Path):
    assert {path.name for path in run.glob("checkpoint-*")} == {
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    }
    assert all(verify(path) == [] for path in run.glob("checkpoint-*"))
    assert last_good(run) == run / "checkpoint-6"
    sealed = json.loads((run / "checkpoint-6" / SEAL).read_text())["files"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= set(sealed)


FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "config.json",
    SEAL,
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "bit flip", "of another step"])
def test_a_damaged_checkpoint_is_passed_over_and_kept_aside(name, damage, damaged: Path, caplog):
    path = damaged / "checkpoint-6" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "bit flip":
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 0x10
        path.write_bytes(flipped)
    else:
        other = (damaged / "checkpoint-4" / name).read_bytes()
        if other == data:
            assert verify(damaged / "checkpoint-6") == []  # the same at both steps: no damage done
            return
        path.write_bytes(other)
    with caplog.at_level(logging.WARNING, logger="teachfair"):
        assert last_good(damaged) == damaged / "checkpoint-4"
    assert (damaged / "quarantined-checkpoint-6").is_dir()
    assert not (damaged / "checkpoint-6").exists()
    assert "checkpoint-6 is not used" in caplog.text


def test_an_unsealed_checkpoint_is_passed_over(damaged: Path):
    half = damaged / "checkpoint-8"
    half.mkdir()
    (half / "config.json").write_text("{}")
    assert last_good(damaged) == damaged / "checkpoint-6"
    assert (damaged / "quarantined-checkpoint-8").is_dir()


def test_newest_goes_by_step_not_by_name_or_clock(damaged: Path):
    shutil.copytree(
        damaged / "checkpoint-2", damaged / "checkpoint-10"
    )  # "checkpoint-10" < "checkpoint-2" as text
    (damaged / "checkpoint-4" / "config.json").touch()
    assert last_good(damaged) == damaged / "checkpoint-10"


def test_two_quarantined_checkpoints_of_one_step_are_both_kept(damaged: Path):
    for _ in range(2):
        (damaged / "checkpoint-8").mkdir()
        assert last_good(damaged) == damaged / "checkpoint-6"
    assert (damaged / "quarantined-checkpoint-8-2").is_dir()


def test_the_trainer_does_not_take_a_quarantined_checkpoint(damaged: Path):
    from transformers.trainer_utils import get_last_checkpoint

    (damaged / "checkpoint-8").mkdir()
    last_good(damaged)
    assert get_last_checkpoint(str(damaged)) == str(damaged / "checkpoint-6")


def test_no_checkpoint_gives_none(tmp_path: Path):
    assert last_good(tmp_path) is None
    assert last_good(tmp_path / "absent") is None
    (tmp_path / "checkpoint-1").mkdir()
    assert last_good(tmp_path) is None
    with pytest.raises(CheckpointError, match="nothing to seal"):
        seal(tmp_path / "absent")


def test_a_weight_file_added_after_sealing_is_noticed(damaged: Path):
    (damaged / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"x")
    assert verify(damaged / "checkpoint-6") == ["adapter_model.safetensors was added after sealing"]


def test_resuming_from_the_last_good_checkpoint_ends_with_the_same_weights(
    run: Path, damaged: Path, tiny_llama: Path
):
    path = damaged / "checkpoint-6" / "optimizer.pt"
    path.unlink()  # the Trainer would resume from it without a word, with an empty optimizer
    again = trainer(tiny_llama, damaged)
    again.train(resume_from_checkpoint=str(last_good(damaged)))
    ours = (damaged / "checkpoint-6" / "model.safetensors").read_bytes()
    assert ours == (run / "checkpoint-6" / "model.safetensors").read_bytes()


def poisoned(model_folder: Path, out: Path, at_step: int, callbacks=None, **arguments):
    """A run in which one weight becomes NaN after step ``at_step``."""
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == at_step:
                model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")

    own = [StopOnNonFinite(), SealCheckpoints()] if callbacks is None else callbacks
    return trainer(model_folder, out, callbacks=[Poison(), *own], **arguments)


def test_nan_weights_stop_the_run_before_they_are_saved(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj\.weight") as caught:
        poisoned(tiny_llama, tmp_path, at_step=4).train()
    assert "step 4" in str(caught.value)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2"}
    assert last_good(tmp_path) == tmp_path / "checkpoint-2"


def test_a_nan_loss_stops_the_run_at_its_step(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(NonFiniteError, match=r"(loss|grad_norm) is nan") as caught:
        poisoned(tiny_llama, tmp_path, at_step=2, save_steps=5).train()
    assert "step 3" in str(caught.value)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_without_the_guard_the_same_run_ends_well_and_saves_nan(tiny_llama: Path, tmp_path: Path):
    from safetensors.torch import load_file

    poisoned(tiny_llama, tmp_path, at_step=2, callbacks=[], save_steps=6).train()
    saved = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert saved["model.layers.1.mlp.up_proj.weight"].isnan().any()  # what the guard is for


def test_a_poisoned_checkpoint_is_removed_and_never_sealed(tiny_llama: Path, tmp_path: Path):
    # Sealing alone: the weights are already written when it looks, so it takes them away again.
    with pytest.raises(NonFiniteError):
        poisoned(tiny_llama, tmp_path, at_step=4, callbacks=[SealCheckpoints()]).train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2"}


def test_nan_after_the_last_save_is_not_called_a_success(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(NonFiniteError, match="step 6"):
        poisoned(tiny_llama, tmp_path, at_step=6, save_strategy="no").train()


def test_non_finite_optimizer_state_is_found(tiny_llama: Path):
    import torch

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert first_non_finite(model, optimizer) is None
    optimizer.state[model.weight]["exp_avg"][0, 0] = float("inf")
    assert first_non_finite(model, optimizer) == "optimizer state exp_avg of weight"


def test_a_save_limit_that_would_delete_the_last_good_checkpoint_is_refused(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="save_total_limit"):
        trainer(tiny_llama, tmp_path, save_total_limit=1).train()
