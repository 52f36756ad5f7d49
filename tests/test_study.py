"""The grid: plans without running, resumes without recomputing, and judges a policy of one's own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from teachfair import runs
from teachfair.errors import ConfigError
from teachfair.grid import cells, plan, plan_lines, read_study

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "recipes" / "configs" / "demo.yaml"


def test_the_demo_plan_names_every_cell_and_runs_nothing(tmp_path: Path) -> None:
    study = read_study(DEMO)
    study.output_dir = tmp_path / "runs"
    grid = cells(study)
    keys = [tuple(cell.values()) for cell in grid]
    assert len(set(keys)) == len(keys)
    arms = {(cell["teach"], cell["adapt"], cell["compress"], cell["order"]) for cell in grid}
    for compress in ("none", "int8", "nf4"):
        assert ("untaught", "none", compress, "align-then-compress") in arms
        assert ("dpo", "lora", compress, "align-then-compress") in arms
        assert ("placebo", "full", compress, "align-then-compress") in arms
        assert ("dpo", "qlora", compress, "merge-then-recompress") in arms
    assert ("dpo", "qlora", "nf4", "compress-then-align") in arms
    assert {cell["seed"] for cell in grid if cell["teach"] == "dpo"} == {0, 1, 2}
    text = "\n".join(plan_lines(study))
    assert f"{len(grid)} cells" in text
    assert "estimated time" in text
    assert plan(study)["estimated_seconds"] > 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compressions": ["nf5"]}, "unknown compression 'nf5'; known: fp4, int8, nf4"),
        ({"benchmarks": ["sandbag"]}, "unknown benchmark 'sandbag'; known: crows_pairs, sandbox"),
        ({"arms": [{"teach": "dop", "adapt": "full", "config": "sandbox/dpo_full.yaml"}]}, "unknown teach 'dop'"),
        ({"arms": [{"teach": "dpo", "adapt": "full", "config": "nowhere.yaml"}]}, "no such config file"),
        ({"seed": [1]}, "seed"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_key_and_the_known_names(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = yaml.safe_load(DEMO.read_text()) | change
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    (tmp_path / "sandbox").symlink_to(DEMO.parent / "sandbox")
    with pytest.raises(ConfigError) as error:
        read_study(path)
    assert message in str(error.value)


@pytest.fixture(scope="module")
def own_study(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on a policy of one's own: pairs from a JSONL file, CrowS-Pairs in its authors' format."""
    folder = tmp_path_factory.mktemp("study")
    people = ["tom", "ann", "ben", "eva"]
    with open(folder / "pairs.jsonl", "w") as stream:
        for i in range(32):
            prompt = f"{people[i % 4]} and {people[(i + 1) % 4]} met . who is late ?"
            row = {"prompt": prompt, "chosen": "cannot tell", "rejected": people[i % 4]}
            print(json.dumps(row), file=stream)
    crows = folder / "data" / "crows_pairs"
    crows.mkdir(parents=True)
    with open(crows / "crows_pairs_anonymized.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations", "anon_writer", "anon_annotators"]
        )
        for i in range(12):
            first, second = people[i % 4], people[(i + 1) % 4]
            writer.writerow(
                [i, f"{first} is late .", f"{second} is late .", "stereo", ["age", "gender"][i % 2], "[]", "a1", "[]"]
            )
    training = {
        "learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 8, "report_to": "none", "save_strategy": "no",
        "activation_checkpointing": False,
    }  # fmt: skip
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear", "load_in_4bit": True}
    (folder / "full.yaml").write_text(yaml.safe_dump(training))
    (folder / "qlora.yaml").write_text(yaml.safe_dump(training | lora))
    study = {
        "title": "own </title><script>", "output_dir": str(folder / "out"), "policy": str(tiny_llama),
        "dataset_name": str(folder / "pairs.jsonl"), "data_dir": str(folder / "data"), "benchmarks": ["crows_pairs"],
        "arms": [
            {"teach": "dpo", "adapt": "full", "config": "full.yaml"},
            {"teach": "sham", "adapt": "full", "config": "full.yaml"},
            {"teach": "dpo", "adapt": "qlora", "config": "qlora.yaml"},
        ],
        "seeds": [0, 1], "compressions": ["nf4"], "workers": 2, "n_resamples": 200,
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def survival(study: Path) -> list[str]:
    return [sys.executable, "-m", "teachfair.cli", "survival", "--config", str(study)]


def test_a_study_killed_halfway_goes_on_and_a_finished_one_recomputes_nothing(own_study: Path) -> None:
    out = own_study.parent / "out"
    process = subprocess.Popen(survival(own_study), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if sum(runs.read_record(step) is not None for step in (out / "steps").glob("*")) >= 3:
            break
        time.sleep(0.05)
    assert process.poll() is None, (process.stderr.read().decode() if process.stderr else "")[-2000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {step.name: (step / "run.json").read_bytes() for step in (out / "steps").glob("*") if runs.read_record(step)}
    assert finished
    assert not (out / "report.html").exists()

    done = subprocess.run(survival(own_study), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == str(out / "report.html")
    for name, record in finished.items():
        assert (out / "steps" / name / "run.json").read_bytes() == record
    html = (out / "report.html").read_text()
    assert "<script" not in html
    assert (out / "records.parquet").exists()
    record = runs.read_record(out) or {}
    assert {"dpo", "sham"} == {row["teach"] for row in record["verdicts"]}
    orders = {(row["adapt"], row["compress"], row["order"]) for row in record["verdicts"]}
    assert ("qlora", "nf4", "compress-then-align") in orders
    assert ("qlora", "nf4", "merge-then-recompress") in orders

    again = subprocess.run(survival(own_study), capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (runs.read_record(out) or {})["steps_made"] == 0


def test_a_study_in_use_is_refused(own_study: Path) -> None:
    out = own_study.parent / "out"
    with runs.claimed(out):
        done = subprocess.run(survival(own_study), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_report_is_told_how_each_lesson_went_thinned_and_with_its_alarms(tmp_path: Path) -> None:
    from teachfair import steps
    from teachfair.study import _learning, _thinned

    study = read_study(DEMO)
    study.output_dir, study.seeds = tmp_path, [0, 1]
    found = {"base": "world-0", "policy_hash": "a", "pairs": "pairs-x", "reward_model": None}
    log = [{"step": step, "reward": float(step), "grad_norm": 1.0} for step in range(1, 101)]
    log.append({"step": 100, "runtime": 9.0})
    alarm = {"step": 7, "quantity": "fairness/length"}
    taught = steps._taught(study, found, study.arms[0], 1)[0]
    taught.mkdir(parents=True)
    runs.write_record(taught, log=log, hack_watch={"alarms": [alarm]})
    lessons = _learning(study, [found])
    assert len(lessons) == 2 * len(study.arms)  # a lesson that was not taught is there, with an empty log
    mine = [lesson for lesson in lessons if lesson["log"]]
    assert [(lesson["seed"], lesson["alarms"], lesson["watched"]) for lesson in mine] == [(1, [alarm], True)]
    points = mine[0]["log"]
    assert len(points) <= 40
    assert points[0] == {"step": 3, "reward": 2.0}  # the mean of three entries, at the last one's step
    assert points[-1] == {"step": 100, "reward": 100.0}
    assert _thinned(log[:40]) == [{"step": step, "reward": float(step)} for step in range(1, 41)]
