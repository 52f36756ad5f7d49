"""Reward model and lesson on a world that nobody looked at while anything was tuned (world 4)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from teachfair import runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_reward_model_and_lesson_hold_on_an_untouched_world(tmp_path: Path) -> None:
    configs = ROOT / "recipes" / "configs" / "sandbox"
    study = {
        "output_dir": str(tmp_path / "out"), "world_seeds": [4], "reward_model": str(configs / "reward_model.yaml"),
        "arms": [{"teach": "dpo", "adapt": "full", "config": str(configs / "dpo_full.yaml")}],
        "seeds": [0, 1, 2], "compressions": ["nf4"], "n_resamples": 1000,
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = subprocess.run(
        [sys.executable, "-m", "teachfair.cli", "survival", "--config", str(tmp_path / "study.yaml")],
        env=os.environ | {"TEACHFAIR_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "out" / "steps").glob("reward-model-*")
    accuracy = {row["kind"]: row["accuracy"] for row in (runs.read_record(folder) or {})["accuracy"]}
    print(accuracy)
    for kind in ("cant-tell-vs-stereotype", "cant-tell-vs-anti", "evidence-vs-cant-tell"):
        assert accuracy[kind] >= 0.95, accuracy
    for kind in ("evidence-vs-stereotype", "evidence-vs-anti"):
        assert accuracy[kind] >= 0.9, accuracy
    row = json.loads((tmp_path / "out" / "survival.json").read_text())[0]
    print({key: row[key] for key in ("d0", "r_c", "verdict")})
    assert row["d0"]["value"] >= 3 * row["d0"]["se"] > 0
    rails = {rail["name"]: rail for rail in row["guard_rails_reference"]}
    assert rails["disambiguated accuracy"]["change"]["value"] > -0.02
    assert rails["unknown-overuse"]["change"]["value"] < 0.02
