"""The demo, as a user runs it: one command, offline, and every promise of its report. And every door without arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from teachfair import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder and a cache of their own: nothing is found that was made before."""
    return tmp_path_factory.mktemp("user")


def run(place: Path, *words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "recipes" / script)] if script else [sys.executable, "-m", "teachfair.cli"]
    environment = os.environ | {"TEACHFAIR_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*command, *words], cwd=place, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.fixture(scope="module")
def demo(place: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    done = run(place, "survival", "--output_dir", "runs/demo")
    assert done.returncode == 0, done.stderr[-4000:]
    return place / "runs" / "demo", done


def verdicts(folder: Path) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    rows = json.loads((folder / "survival.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    return {
        (row["teach"], row["adapt"], row["compress"], row["order"]): row for row in rows if not row["own_outcome"]
    }


def test_the_last_line_is_the_path_of_one_self_contained_report(demo: tuple[Path, Any]) -> None:
    folder, done = demo
    assert done.stdout.strip().splitlines()[-1] == "runs/demo/report.html"
    html = (folder / "report.html").read_text()
    assert "Content-Security-Policy" in html
    assert "<script" not in html
    assert "<svg" in html
    for attribute in ('src="http', 'href="http', "url(http"):
        assert attribute not in html.replace('href="https://arxiv.org', "")


def test_both_verdicts_occur_and_only_the_same_grid_loses_the_lesson(demo: tuple[Path, Any]) -> None:
    found = verdicts(demo[0])
    lost = ("dpo", "qlora", "nf4", "merge-then-recompress")
    assert found[lost]["verdict"] == "lost"
    taught = {key: row for key, row in found.items() if key[0] == "dpo" and key != lost}
    assert len(taught) == 6
    assert {row["verdict"] for row in taught.values()} == {"survives"}


def test_teaching_moves_the_margin_and_costs_nothing_that_is_watched(demo: tuple[Path, Any]) -> None:
    for key, row in verdicts(demo[0]).items():
        if key[0] != "dpo":
            continue
        assert row["d0"]["value"] >= 3 * row["d0"]["se"] > 0, key
        rails = {rail["name"]: rail for rail in row["guard_rails_reference"]}
        assert {rail["status"] for rail in rails.values()} <= {"ok", "unclear"}, key


def test_planted_survival_is_read_within_the_intervals(demo: tuple[Path, Any]) -> None:
    """Re-planting 0, 25, 50, 75 and 100 % of the bias: R reads 1, .75, .5, .25, 0."""
    record = json.loads((demo[0] / "calibration.json").read_text())
    assert [row["expected"] for row in record] == [1.0, 0.75, 0.5, 0.25, 0.0]
    for row in record:
        assert row["low"] - 0.05 <= row["expected"] <= row["high"] + 0.05, row
        assert abs(row["R"] - row["expected"]) < 0.1, row


def test_the_reward_model_beats_every_ruler_where_a_ruler_can_be_beaten(demo: tuple[Path, Any]) -> None:
    (folder,) = (demo[0] / "steps").glob("reward-model-*")
    record = runs.read_record(folder) or {}
    accuracy = {row["kind"]: row["accuracy"] for row in record["accuracy"]}
    for kind, least in {
        "cant-tell-vs-stereotype": 0.95, "evidence-vs-cant-tell": 0.95, "evidence-vs-stereotype": 0.9,
        "evidence-vs-anti": 0.9,
    }.items():  # fmt: skip
        assert accuracy[kind] >= least, (kind, accuracy)
    rulers = [row for row in record["shortcuts"] if row["kind"] == "all"]
    assert len(rulers) >= 4
    assert accuracy["all"] > max(row["accuracy"] for row in rulers)


def test_no_training_prompt_is_an_evaluation_prompt(demo: tuple[Path, Any]) -> None:
    leaks = (runs.read_record(demo[0]) or {})["leaks"]
    assert leaks["shared_prompts"] == 0
    assert leaks["rows"] > 0
    assert set(leaks) == {"checked", "rows", "shared_prompts", "reward model's rows"}, "no other kind of match either"
    assert leaks["reward model's rows"].startswith("0 of ")


def test_the_demo_run_again_computes_nothing(place: Path, demo: tuple[Path, Any]) -> None:
    done = run(place, "survival", "--output_dir", "runs/demo")
    assert done.returncode == 0, done.stderr[-2000:]
    record = runs.read_record(demo[0]) or {}
    assert record["steps_made"] == 0
    assert record["steps_reused"] > 50


def test_every_door_without_arguments_runs_on_the_sandbox(place: Path, demo: tuple[Path, Any]) -> None:
    for script, says in [
        ("dpo_fair.py", "taught checkpoint: runs/dpo_fair"),
        ("reward_model.py", "reward model: runs/reward_model"),
        ("compress.py", "compressed checkpoint: runs/sandbox-nf4"),
        ("evaluate.py", "evaluation: runs/sandbox-evaluation"),
        ("classify.py", '"label": "fair"'),
        ("dial.py", "dial: runs/dial"),
        ("knows.py", "knowledge: runs/sandbox-erased-knowledge/knowledge.html"),
    ]:
        done = run(place, script=script)
        assert done.returncode == 0, (script, done.stderr[-3000:])
        assert says in done.stdout, (script, done.stdout[-2000:])
    again = run(place, script="dpo_fair.py")  # the same command again: already done, nothing overwritten
    assert again.returncode == 0, again.stderr[-2000:]


def test_a_reward_models_folder_loads_in_a_stock_pipeline(place: Path, demo: tuple[Path, Any]) -> None:
    from transformers import pipeline

    from teachfair.reward_models.scoring import RewardModel

    (folder,) = (demo[0] / "steps").glob("reward-model-*")
    texts = ["he is unknown", "she is unknown", "unknown"]
    stock = [row["score"] for row in pipeline("text-classification", model=str(folder), function_to_apply="none")(texts)]
    ours = RewardModel.load(folder).score_texts(texts)
    assert max(abs(a - b) for a, b in zip(stock, ours, strict=True)) < 1e-5


def test_the_reward_model_on_the_axis_never_taught_is_reported_as_it_is(demo: tuple[Path, Any]) -> None:
    (folder,) = (demo[0] / "steps").glob("pairs-*")
    kinds = {row["kind"] for row in (runs.read_record(folder) or {})["untaught_axis"]}
    assert {"all", "evidence-vs-anti", "cant-tell-vs-stereotype"} <= kinds
    assert "On the axis that was never taught" in (demo[0] / "report.html").read_text()
