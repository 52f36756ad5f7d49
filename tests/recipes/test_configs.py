"""Every YAML we ship opens: each door's parser takes each of its configs; no unknown keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from teachfair.grid import StudyConfig, read_study

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CONFIGS = sorted((RECIPES / "configs").rglob("*.yaml"))
ACCELERATE = sorted((RECIPES / "accelerate_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[str(path.relative_to(RECIPES)) for path in CONFIGS])
def test_every_shipped_config_is_taken_by_its_door(path: Path) -> None:
    if "arms:" in path.read_text():
        assert isinstance(read_study(path), StudyConfig)
        return
    if path.stem.startswith("evaluate"):
        from teachfair.recipes.evaluate import door as evaluate

        (asked,) = evaluate.parse(["--config", str(path)])
        assert asked.benchmarks == ["all"]
        return
    method = path.stem.rpartition("_")[0]
    module = "reward_model" if path.stem.startswith("reward_model") else f"{method}_fair"
    door = __import__(f"teachfair.recipes.{module}", fromlist=["door"]).door
    _, args, model_args = door.parse(["--config", str(path)])
    assert args.learning_rate == yaml.safe_load(path.read_text())["learning_rate"]
    assert model_args.use_peft == ("lora" in path.stem)
    assert model_args.load_in_4bit == ("qlora" in path.stem)
    if module == "reward_model" and model_args.use_peft:
        assert model_args.lora_task_type == "SEQ_CLS"


def test_the_accelerate_configs_users_expect_are_there() -> None:
    assert {path.stem for path in ACCELERATE} == {"cpu", "single_gpu", "ddp", "fsdp2", "zero2", "zero3"}


@pytest.mark.parametrize("path", ACCELERATE, ids=[path.stem for path in ACCELERATE])
def test_every_accelerate_config_is_read_by_accelerate_itself(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_machines == 1
    if path.stem == "cpu":
        assert config.mixed_precision == "no"
