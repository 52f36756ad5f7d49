"""The grid: plans without running, resumes without recomputing, and judges a policy of one's own."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from teachfair import runs
from teachfair.errors import ConfigError, DataError, InputError, RunFolderError
from teachfair.grid import cells, plan, plan_lines, read_study
from teachfair.leak_check import NOBODY, evaluation_items
from teachfair.study import _leaks

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "recipes" / "configs" / "demo.yaml"
DPO = {"teach": "dpo", "adapt": "full", "config": "sandbox/dpo_full.yaml"}
PPO = {"teach": "ppo", "adapt": "full", "config": "sandbox/ppo_full.yaml"}
JUDGE = "sandbox/reward_model_judge.yaml"


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
        assert ("placebo-dpo", "full", compress, "align-then-compress") in arms
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
        ({"benchmarks": ["sandbag"]}, "unknown benchmark 'sandbag'; known: "),
        ({"arms": [{"teach": "dop", "adapt": "full", "config": "sandbox/dpo_full.yaml"}]}, "unknown teach 'dop'"),
        ({"arms": [{"teach": "dpo", "adapt": "full", "config": "nowhere.yaml"}]}, "no such config file"),
        ({"arms": [DPO | {"teach": "placebo"}]}, "write {teach: dpo, control: placebo, …}"),
        ({"arms": [DPO | {"control": "shame"}]}, "unknown control 'shame'; known: none, placebo, sham"),
        ({"arms": [DPO, DPO]}, "two arms are dpo full"),
        ({"arms": [DPO | {"control": "sham"}]}, "not a control"),
        ({"arms": [PPO], "reward_model": None, "replant": []}, "ppo learns from a reward model"),
        ({"policy": "p", "arms": [DPO | {"control": "placebo"}], "replant": []}, "needs a fairness-neutral preference"),
        ({"benchmarks": ["sandbox", "judged"]}, "a judge and the benchmark that asks it belong together"),
        ({"judge": JUDGE}, "a judge and the benchmark that asks it belong together"),
        ({"benchmarks": ["judged"], "judge": JUDGE}, "judged has no margin"),
        ({"benchmarks": ["sandbox", "judged"], "judge": "nowhere"}, "neither a config file nor a folder"),
        ({"exclude_ids": "contested.txt"}, "none is contested"),
        ({"seed": [1]}, "seed"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_key_and_the_known_names(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = yaml.safe_load(DEMO.read_text()) | change
    with pytest.raises(ConfigError) as error:
        read_study(study_file(tmp_path, values))
    assert message in str(error.value)


def study_file(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    (folder / "sandbox").symlink_to(DEMO.parent / "sandbox")
    return path


def test_every_cell_of_the_grid_of_all_methods_is_distinct_and_its_plan_counts_each_kind_of_step(tmp_path: Path) -> None:
    study = read_study(DEMO.parent / "all_methods.yaml")
    study.output_dir = tmp_path / "runs"
    grid = cells(study)
    assert len({tuple(cell.values()) for cell in grid}) == len(grid)
    methods, adapts = ("dpo", "ppo", "grpo", "rloo"), ("full", "lora", "qlora")
    arms = {(cell["teach"], cell["adapt"]) for cell in grid} - {("untaught", "none")}
    expected = {(name, adapt) for method in methods for name in (method, f"placebo-{method}") for adapt in adapts}
    assert arms == expected | {("sham-dpo", "full"), ("sham-ppo", "full")}
    counts = plan(study)["steps"]
    assert sum(number for kind, number in counts.items() if kind.startswith("teach-")) == len(arms) * len(study.seeds)
    assert counts["teach-ppo"] == 7 * 3
    assert counts["merge"] == 8 * 3
    assert counts["evaluate"] == len(grid)
    shared = ("reward-model", "placebo-reward-model", "judge", "pairs", "prompts")
    assert [counts[kind] for kind in shared] == [1, 1, 1, 1, 2]
    each = plan(study)["seconds_per_step"]
    assert each["teach-ppo"] != each["teach-dpo"], "lessons are reckoned by their method"


def test_a_plan_reckons_with_the_lessons_of_its_own_that_are_finished(tmp_path: Path) -> None:
    study = read_study(DEMO.parent / "all_methods.yaml")
    study.output_dir = tmp_path / "runs"
    before = plan(study)
    for method, seconds in {"ppo": 100.0, "dpo": 7.0}.items():
        step = study.output_dir / "steps" / f"teach-{method}"
        step.mkdir(parents=True)
        runs.write_record(step, step="teach", method=method, seconds=seconds)
    after = plan(study)
    assert (after["seconds_per_step"]["teach-ppo"], after["seconds_per_step"]["teach-dpo"]) == (100.0, 7.0)
    assert after["seconds_per_step"]["teach-grpo"] == before["seconds_per_step"]["teach-grpo"]
    gained = 21 * (100 - before["seconds_per_step"]["teach-ppo"] + 7 - before["seconds_per_step"]["teach-dpo"])
    assert after["estimated_seconds"] - before["estimated_seconds"] == pytest.approx(gained / study.workers, abs=0.2)


def test_what_no_arm_needs_is_not_planned() -> None:
    counts = plan(read_study(DEMO))["steps"]
    assert [counts[kind] for kind in ("placebo-reward-model", "judge", "prompts", "merge")] == [0, 0, 0, 3]


@pytest.mark.parametrize("how", ["the same config", "a copy of the config", "the study's own reward-model folder"])
def test_a_judge_that_is_known_to_be_the_teacher_is_refused_before_anything_runs(tmp_path: Path, how: str) -> None:
    values = yaml.safe_load(DEMO.read_text()) | {"benchmarks": ["sandbox", "judged"], "output_dir": str(tmp_path / "out")}
    teacher = DEMO.parent / "sandbox" / "reward_model.yaml"
    folder = tmp_path / "out" / "steps" / "reward-model-world-0-0123456789ab"
    folder.mkdir(parents=True)
    (tmp_path / "copy.yaml").write_text("# another comment\n" + teacher.read_text())
    judge = {"the same config": teacher, "a copy of the config": tmp_path / "copy.yaml"}.get(how, folder)
    with pytest.raises(ConfigError, match="the judge is the teacher") as error:
        read_study(study_file(tmp_path, values | {"judge": str(judge)}))
    assert str(judge) in str(error.value)
    assert "reward_model.yaml" in str(error.value)
    assert "dpo" in str(error.value)


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
            {"teach": "dpo", "control": "sham", "adapt": "full", "config": "full.yaml"},
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
    assert {"dpo", "sham-dpo"} == {row["teach"] for row in record["verdicts"]}
    orders = {(row["adapt"], row["compress"], row["order"]) for row in record["verdicts"]}
    assert ("qlora", "nf4", "compress-then-align") in orders
    assert ("qlora", "nf4", "merge-then-recompress") in orders

    again = subprocess.run(survival(own_study), capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (runs.read_record(out) or {})["steps_made"] == 0

    # One number edited, and the hash beside it as well: the study remembers what it reported on.
    cell = next(iter((runs.read_record(out) or {})["cell_records"]))
    edited = pd.read_parquet(out / "steps" / cell / "records.parquet")
    edited.loc[0, "margin_nats"] = 0.0
    edited.to_parquet(out / "steps" / cell / "records.parquet")
    told = {"records_hash": runs.hash_file(out / "steps" / cell / "records.parquet")}
    runs.write_json(out / "steps" / cell / "run.json", (runs.read_record(out / "steps" / cell) or {}) | told)
    refused = subprocess.run(survival(own_study), capture_output=True, text=True, timeout=200)
    assert refused.returncode == 2
    assert str(out / "steps" / cell / "records.parquet") in refused.stderr


def foundation_of(study: Path, **change: Any) -> Path:
    """Make what the arms share; returns the folder of the steps."""
    from teachfair import steps

    config = read_study(study).model_copy(update=change)
    steps.foundation(config.model_dump(), config.bases[0])
    return Path(config.output_dir) / "steps"


def wall_of(steps: Path) -> dict[str, Any]:
    (pairs,) = steps.glob("pairs-*")
    return dict((runs.read_record(pairs) or {})["wall"])


def pairs_of(study: Path) -> list[str]:
    return (study.parent / "pairs.jsonl").read_text().splitlines()


def leaky_pairs(study: Path, out: Path) -> Path:
    """The study's own pairs and two that hold its CrowS-Pairs items: one word for word, one with the other name."""
    rows = (study.parent / "pairs.jsonl").read_text()
    for asked in ("tom is late .", "say it : ann is late . is she ?"):
        rows += json.dumps({"prompt": asked, "chosen": "cannot tell", "rejected": "tom"}) + "\n"
    out.write_text(rows)
    return out


def test_a_study_whose_pairs_hold_items_of_a_benchmark_stops_before_anything_is_taught(
    own_study: Path, tmp_path: Path
) -> None:
    change = {"dataset_name": str(leaky_pairs(own_study, tmp_path / "leaky.jsonl")), "output_dir": tmp_path / "out"}
    with pytest.raises(DataError, match="allow_leaks: true") as error:
        foundation_of(own_study, **change)
    assert "crows_pairs item" in str(error.value)
    assert not list((tmp_path / "out" / "steps").glob("*")), "the pairs are not sealed, and nothing is taught"

    steps = foundation_of(own_study, **change, allow_leaks=True)
    wall = wall_of(steps)
    assert wall["train_rows"]["exact"] == 1
    assert wall["n_train"] == 34
    assert wall["allowed"] is True
    assert "pairs " in wall["matches"][0]["train_id"]
    found = [{"pairs": str(next(steps.glob("pairs-*")))}]
    assert _leaks(found)["shared_prompts"] == 1
    assert _leaks(found)["rows"] == 34
    with pytest.raises(DataError, match="what would be taught"):
        foundation_of(own_study, **change)  # the finished step does not smuggle them in
    assert wall_of(steps)["allowed"] is True


def test_finished_pairs_are_held_against_a_benchmark_that_was_added_later(own_study: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(own_study.parent / "data", data)
    steps = foundation_of(own_study, output_dir=tmp_path / "out", data_dir=data)
    before = wall_of(steps)
    assert (before["leaks"], before["n_train"], before["n_evaluation"]) == (0, 32, {"crows_pairs": 12})
    record = next(steps.glob("pairs-*")) / "run.json"
    stamp = record.read_bytes()
    foundation_of(own_study, output_dir=tmp_path / "out", data_dir=data)
    assert record.read_bytes() == stamp, "held once"

    (data / "judged").mkdir(exist_ok=True)
    asked = "tom and ann met . who is late ?"
    (data / "judged" / "prompts.jsonl").write_text(json.dumps({"prompt": asked}) + "\n")
    both = {"benchmarks": ["crows_pairs", "judged"], "judge": tmp_path}
    with pytest.raises(DataError, match="judged item"):
        foundation_of(own_study, output_dir=tmp_path / "out", data_dir=data, **both)


def test_pairs_that_only_teach_cannot_tell_stop_a_study_unless_forced(own_study: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"kind": "cant-tell-vs-stereotype"} for line in pairs_of(own_study)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    change = {"dataset_name": str(tmp_path / "pairs.jsonl"), "output_dir": tmp_path / "out"}
    with pytest.raises(ConfigError, match="force_mix: true"):
        foundation_of(own_study, **change)
    steps = foundation_of(own_study, **change, force_mix=True)
    record = runs.read_record(next(steps.glob("pairs-*"))) or {}
    assert (record["mix"]["forced"], record["mix"]["kinds"]) == (True, {"cant-tell-vs-stereotype": 32})
    with pytest.raises(ConfigError, match="force_mix: true"):
        foundation_of(own_study, **change)
    plain = runs.read_record(next(foundation_of(own_study, output_dir=tmp_path / "plain").glob("pairs-*"))) or {}
    assert plain["mix"]["kinds"] == {"unspecified": 32}, "whose rule is not known is not judged"


def test_contested_pairs_are_left_out_of_a_study_and_the_list_decides_its_pairs(own_study: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"id": f"p{i}"} for i, line in enumerate(pairs_of(own_study))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "contested.txt").write_text("# whose norm?\np3\np8\n")
    change = {"dataset_name": str(tmp_path / "pairs.jsonl"), "output_dir": tmp_path / "out"}
    steps = foundation_of(own_study, **change)
    foundation_of(own_study, **change, exclude_ids=tmp_path / "contested.txt")
    records = {record["n_pairs"]: record for step in steps.glob("pairs-*") if (record := runs.read_record(step))}
    assert set(records) == {32, 30}
    (told,) = records[30]["as_read"]["exclusions"]
    assert (told["file"], told["ids"], told["met"]) == ("contested.txt", 2, 2)
    assert told["sha256"] == records[30]["excluded"]


@pytest.fixture
def learning_study(own_study: Path, tmp_path: Path) -> dict[str, Any]:
    """What a study's foundation needs to train a reward model, and a judge on pairs of its own."""
    training = {"report_to": "none", "save_strategy": "no", "activation_checkpointing": False, "max_steps": 1,
                "per_device_train_batch_size": 4}  # fmt: skip
    clean = tmp_path / "judge.jsonl"
    clean.write_text((own_study.parent / "pairs.jsonl").read_text().replace("late", "sad"))
    (tmp_path / "reward.yaml").write_text(yaml.safe_dump(training))
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(training | {"dataset_name": str(clean), "test_share": 0.0}))
    return {"reward_model": tmp_path / "reward.yaml", "judge": tmp_path / "judge.yaml", "output_dir": tmp_path / "out"}


def test_what_a_reward_model_and_a_judge_learn_from_is_held_apart_before_anything_is_trained(
    own_study: Path, learning_study: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "steps"
    leaky_pairs(own_study, tmp_path / "leaky.jsonl")
    with pytest.raises(DataError, match="training row pairs "):  # the lesson's own pairs, before the reward model
        foundation_of(own_study, **learning_study, dataset_name=str(tmp_path / "leaky.jsonl"))
    assert not list(out.glob("*"))

    clean = (tmp_path / "judge.jsonl").read_text()
    shutil.copy(tmp_path / "leaky.jsonl", tmp_path / "judge.jsonl")
    with pytest.raises(DataError, match="training row judge "):  # pairs that only the judge learns from
        foundation_of(own_study, **learning_study)
    assert not list(out.glob("*"))

    steps = foundation_of(own_study, **learning_study, allow_leaks=True)
    (judge,), (model,) = steps.glob("judge-*"), steps.glob("reward-model-*")
    walls = {step: (runs.read_record(step) or {})["wall"] for step in (judge, model)}
    assert (walls[judge]["leaks"], walls[judge]["n_train"], walls[judge]["allowed"]) == (1, 34, True)
    assert walls[model]["leaks"] == 0
    assert (runs.read_record(model) or {})["mix"]["kinds"] == {"unspecified": walls[model]["n_train"]}
    found = {"pairs": str(next(steps.glob("pairs-*"))), "judge": str(judge), "reward_model": str(model)}
    told = _leaks([found])
    assert (told["rows"], told["shared_prompts"], told["judge's rows"]) == (32, 0, "1 of 34")
    with pytest.raises(DataError, match="training row judge "):  # the finished judge does not smuggle them in
        foundation_of(own_study, **learning_study)

    (tmp_path / "judge.jsonl").write_text(clean)
    stamp = (model / "run.json").read_bytes()
    foundation_of(own_study, **learning_study)
    assert (runs.read_record(judge) or {})["wall"]["leaks"] == 0, "held again"
    assert (model / "run.json").read_bytes() == stamp, "held once"


def test_a_judge_that_learns_only_cannot_tell_stops_a_study_before_anything_is_trained(
    own_study: Path, learning_study: dict[str, Any], tmp_path: Path
) -> None:
    rows = [json.loads(line) | {"kind": "cant-tell-vs-anti"} for line in (tmp_path / "judge.jsonl").read_text().splitlines()]
    (tmp_path / "judge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="in none is it the evidence"):
        foundation_of(own_study, **learning_study)
    assert not list((tmp_path / "out" / "steps").glob("*"))


def test_a_studys_online_arms_are_not_asked_a_prompt_of_which_one_pair_is_contested(
    own_study: Path, learning_study: dict[str, Any], tmp_path: Path
) -> None:
    rows = [json.loads(line) | {"id": f"p{i}"} for i, line in enumerate(pairs_of(own_study))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "contested.txt").write_text("p3\n")
    from teachfair.grid import Arm

    change = learning_study | {"dataset_name": str(tmp_path / "pairs.jsonl"), "exclude_ids": tmp_path / "contested.txt"}
    arms = [Arm(teach="ppo", adapt="full", config=own_study.parent / "full.yaml")]
    steps = foundation_of(own_study, **change, arms=arms)
    assert (runs.read_record(next(steps.glob("pairs-*"))) or {})["n_pairs"] == 31
    asked = len({row["prompt"] for row in rows})
    record = runs.read_record(next(steps.glob("prompts-*"))) or {}
    assert (record["n_prompts"], record["n_contested"]) == (asked - 1, 1)


def test_the_sandboxs_prompts_are_held_apart_too(tmp_path: Path) -> None:
    from datasets import Dataset

    from teachfair import steps
    from teachfair.data.sandbox.gold import prompt_rows
    from teachfair.data.sandbox.world import SandboxConfig, World

    world = SandboxConfig(seed=0, bias=2.0)
    asked = evaluation_items(["sandbox", "judged"], None, {"sandbox": {"world": world}, "judged": {"judge": NOBODY}})
    Dataset.from_list(prompt_rows(World(world), 200)).to_parquet(str(tmp_path / "prompts.parquet"))
    wall = steps._held_apart(steps._rows_in(tmp_path), asked, allow=False)
    assert (wall["leaks"], wall["n_train"]) == (0, 200)
    assert wall["n_evaluation"]["judged"] == 200
    Dataset.from_list(prompt_rows(World(world), 200, split="test")).to_parquet(str(tmp_path / "prompts.parquet"))
    with pytest.raises(DataError, match="training row prompts "):
        steps._held_apart(steps._rows_in(tmp_path), asked, allow=False)


@pytest.fixture(scope="module")
def online_study(own_study: Path) -> Path:
    """The same policy and pairs; taught by PPO and DPO, with controls, and judged by a second reward model."""
    folder = own_study.parent
    people = ["tom", "ann", "ben", "eva"]
    with open(folder / "neutral.jsonl", "w") as stream:
        for i in range(32):
            prompt = f"the {['nurse', 'pilot', 'baker', 'doctor'][i % 4]} met the cook . who came home ?"
            print(json.dumps({"prompt": prompt, "chosen": "the cook", "rejected": people[i % 4]}), file=stream)
    (folder / "data" / "judged").mkdir(parents=True, exist_ok=True)
    with open(folder / "data" / "judged" / "prompts.jsonl", "w") as stream:
        for i in range(6):
            one, other = people[i % 4], people[(i + 1) % 4]
            # The condition's name is CrowS-Pairs' own: the two must not be mixed.
            row = {"prompt": f"{one} and {other} left . who is sad ?", "condition": "parity", "swap": [[one, other]]}
            print(json.dumps(row | {"groups": [one, other]}), file=stream)
    common = {"report_to": "none", "save_strategy": "no", "activation_checkpointing": False, "learning_rate": 1e-3}
    ppo = common | {"max_steps": 2, "per_device_train_batch_size": 4, "max_completion_length": 3, "hack_watch": "off"}
    reward = common | {"max_steps": 2, "per_device_train_batch_size": 4}
    for name, values in {"ppo": ppo, "reward": reward, "judge": reward | {"seed": 7}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    values = yaml.safe_load(own_study.read_text()) | {
        "output_dir": str(folder / "online"), "placebo_dataset_name": str(folder / "neutral.jsonl"),
        "reward_model": "reward.yaml", "judge": "judge.yaml", "benchmarks": ["crows_pairs", "judged"],
        "arms": [
            {"teach": "ppo", "adapt": "full", "config": "ppo.yaml"},
            {"teach": "ppo", "control": "placebo", "adapt": "full", "config": "ppo.yaml"},
            {"teach": "ppo", "control": "sham", "adapt": "full", "config": "ppo.yaml"},
            {"teach": "dpo", "adapt": "full", "config": "full.yaml"},
        ],
        "seeds": [0],
    }  # fmt: skip
    path = folder / "online.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_grid_of_ppo_its_controls_and_dpo_runs_as_planned_and_is_resumed_for_free(online_study: Path) -> None:
    planned = plan(read_study(online_study))
    done = subprocess.run(survival(online_study), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    out = online_study.parent / "online"
    record = runs.read_record(out) or {}
    assert (record["steps_made"], record["steps_reused"]) == (sum(planned["steps"].values()), 0)
    assert {row["teach"] for row in record["verdicts"]} == {"ppo", "placebo-ppo", "sham-ppo", "dpo"}
    steps = {step.name: runs.read_record(step) or {} for step in (out / "steps").iterdir()}
    lessons = {record["control"]: record for record in steps.values() if record.get("method") == "ppo"}
    assert set(lessons) == {"none", "placebo", "sham"}
    # The placebo has prompts and a reward model of its own; the sham has the lesson's, shuffled.
    assert lessons["sham"]["reward_model_hash"] == lessons["none"]["reward_model_hash"]
    assert lessons["sham"]["prompts_step"] == lessons["none"]["prompts_step"]
    assert lessons["sham"]["reward_reports"][0]["shuffled"] is True
    assert lessons["placebo"]["reward_model_hash"] != lessons["none"]["reward_model_hash"]
    assert lessons["placebo"]["prompts_step"] != lessons["none"]["prompts_step"]
    assert len({record["hash"] for record in lessons.values()}) == 3
    html = (out / "report.html").read_text()
    assert "What a judge says of the answers" in html
    assert next(name for name in steps if name.startswith("judge-")) in html

    again = subprocess.run(survival(online_study), capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (runs.read_record(out) or {})["steps_made"] == 0


def test_the_reward_models_of_a_study_are_refused_as_judges_of_what_they_taught_and_another_is_not(
    online_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By content: a copied folder is the same judge; a compressed policy was taught by whoever taught its source."""
    from teachfair.recipes.evaluate import door

    steps = online_study.parent / "online" / "steps"

    def step(start: str) -> Path:
        return next(path for path in steps.iterdir() if path.name.startswith(start))

    copy = tmp_path / "copied"
    shutil.copytree(step("reward-model-"), copy)
    data = str(online_study.parent / "data")

    def judged(policy: Path, judge: Path) -> tuple[int, str]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        code = door(
            ["--model_name_or_path", str(policy), "--benchmarks", "judged", "--judge", str(judge), "--data_dir", data,
             "--output_dir", str(out)]
        )  # fmt: skip
        return code, capsys.readouterr().err

    for policy in (step("teach-ppo"), step("teach-sham-ppo"), step("teach-dpo"), step("compress-nf4-ppo")):
        for judge in (step("reward-model-"), copy):
            code, said = judged(policy, judge)
            assert code == 2, policy
            assert "the judge is the teacher" in said
            assert str(policy) in said
            assert str(judge) in said
            assert step("reward-model-").name in said, "the reward model as the policy's record calls it"
    assert judged(step("teach-placebo-ppo"), step("placebo-reward-model-"))[0] == 2
    assert judged(step("compress-nf4-ppo"), step("judge-"))[0] == 0
    assert judged(step("teach-placebo-ppo"), step("reward-model-"))[0] == 0, "it did not teach the placebo"

    values = yaml.safe_load(online_study.read_text()) | {"judge": str(copy), "output_dir": str(tmp_path / "refused")}
    study = online_study.parent / "refused.yaml"
    study.write_text(yaml.safe_dump(values))
    from teachfair import steps as grid_steps

    config = read_study(study)
    with pytest.raises(ConfigError, match="the judge is the teacher: the arm ppo full, sham-ppo full, dpo full"):
        grid_steps.foundation(config.model_dump(), config.bases[0])
    assert not list((tmp_path / "refused" / "steps").glob("teach-*")), "before anything is taught"


@pytest.mark.slow
def test_grpo_and_rloo_through_adapters_are_arms_too_with_every_control(online_study: Path, tmp_path: Path) -> None:
    folder = online_study.parent
    online = yaml.safe_load((folder / "ppo.yaml").read_text()) | {"num_generations": 2}
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"}
    for method, adapter in {"grpo": lora | {"load_in_4bit": True}, "rloo": lora}.items():
        (folder / f"{method}.yaml").write_text(yaml.safe_dump(online | adapter))
    arms = [
        {"teach": method, "control": control, "adapt": adapt, "config": f"{method}.yaml"}
        for method, adapt in {"grpo": "qlora", "rloo": "lora"}.items()
        for control in ("none", "placebo", "sham")
    ]
    values = yaml.safe_load(online_study.read_text()) | {"arms": arms, "output_dir": str(folder / "adapters")}
    study = folder / "adapters.yaml"
    study.write_text(yaml.safe_dump(values))
    planned = plan(read_study(study))
    done = subprocess.run(survival(study), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    record = runs.read_record(folder / "adapters") or {}
    assert record["steps_made"] == sum(planned["steps"].values())
    orders = {(row["teach"], row["compress"], row["order"]) for row in record["verdicts"]}
    for name in ("grpo", "placebo-grpo", "sham-grpo"):
        assert {(name, "nf4", "compress-then-align"), (name, "nf4", "merge-then-recompress")} <= orders


PEOPLE = {
    "name": "people", "meaning": "m", "citation": "after <script>alert(1)</script> & others", "licence": "CC0-1.0",
    "norm": "<b>ours</b>", "lang": "en", "problems": ["four <i>names</i>"], "direction": "up = later", "target": "parity",
    "slots": {"place": ["kitchen", "station"]},
    "templates": [{"id": "late", "text": "at the {place} the one late is"}, {"id": "sad", "text": "{place} : sad is"}],
    "options": [{"role": "stereotype", "text": " tom"}, {"role": "anti", "text": " ann"}],
}  # fmt: skip
JOBS = PEOPLE | {"name": "jobs", "items": "rows.csv", "slots": {}, "templates": [{"id": "a", "text": "the {job} said :"}]}


def template(file: Path, values: dict[str, Any], **change: Any) -> Path:
    file.write_text(yaml.safe_dump(values | change))
    return file


@pytest.fixture(scope="module")
def template_study(own_study: Path) -> Path:
    """One arm and seed; the outcome is a template's, beside CrowS-Pairs and a second template with rows in a file."""
    folder = own_study.parent / "templates"
    folder.mkdir()
    template(folder / "people.yaml", PEOPLE)
    template(folder / "jobs.yaml", JOBS)
    (folder / "rows.csv").write_text("job\nnurse\npilot\n")
    values = yaml.safe_load(own_study.read_text()) | {
        "arms": [{"teach": "dpo", "adapt": "full", "config": "../full.yaml"}], "seeds": [0], "workers": 1,
        "benchmarks": ["crows_pairs", "definitional", "people.yaml", "jobs.yaml"], "outcome_benchmark": "people.yaml",
        "output_dir": str(folder / "out"),
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_grid_measures_templates_and_only_the_one_that_was_edited_is_measured_again(template_study: Path) -> None:
    folder = template_study.parent
    n_cells = len(cells(read_study(template_study)))
    planned = plan(read_study(template_study))["steps"]
    assert planned["evaluate"] == 3 * n_cells
    done = subprocess.run(survival(template_study), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    record = runs.read_record(folder / "out") or {}
    assert (record["steps_made"], record["steps_reused"]) == (sum(planned.values()), 0)
    records = pd.read_parquet(folder / "out" / "records.parquet")
    sizes = records.groupby("benchmark").size().to_dict()
    n_definitional = sizes.pop("definitional") / n_cells
    row = json.loads((folder / "out" / "survival.json").read_text())[0]
    rails = {rail["name"]: rail for rail in row["guard_rails"]}
    assert rails["definitional accuracy"]["n_records"] == n_definitional, "measured by another benchmark than the outcome's"
    assert rails["disambiguated accuracy"]["status"] == "undefined"
    assert sizes == {
        "crows_pairs": 12 * n_cells, "jobs": 2 * n_cells, "people": 4 * n_cells,
    }  # fmt: skip
    steps = pd.concat([pd.read_parquet(file) for file in (folder / "out" / "steps").glob("evaluate-*/records.parquet")])
    assert set(records) == set(steps)
    assert sorted(map(list, records["logps_first"])) == sorted(map(list, steps["logps_first"]))
    facts = {fact["name"]: fact for fact in record["benchmarks"]}
    assert "template" not in facts["crows_pairs"]
    copy = folder / "out" / facts["people"]["copy"]
    assert copy.read_bytes() == (folder / "people.yaml").read_bytes()
    assert (folder / "out" / facts["jobs"]["copy"]).with_name("rows.csv").read_text() == "job\nnurse\npilot\n"
    html = (folder / "out" / "report.html").read_text()
    for text in ("after &lt;script&gt;alert(1)&lt;/script&gt; &amp; others", "four &lt;i&gt;names&lt;/i&gt;"):
        assert text in html, "each template with its own citation and problems"
    assert facts["people"]["content_hash"][:12] in html
    assert "<script" not in html
    assert "<i>names" not in html

    template(folder / "people.yaml", PEOPLE, problems=["four names"])
    done = subprocess.run(survival(template_study), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    again = runs.read_record(folder / "out") or {}
    assert again["steps_made"] == n_cells
    assert "four names" in (folder / "out" / "report.html").read_text()
    assert copy.is_file(), "what the first report was about is still there"
    cell = {name: value for name, value in record["cell_records"].items() if "-people-" not in name}
    assert cell.items() <= again["cell_records"].items()


def test_a_study_whose_template_is_gone_names_its_copy_which_is_the_same_benchmark(
    template_study: Path, tmp_path: Path
) -> None:
    from teachfair.grid import with_kept_templates

    values = yaml.safe_load(template_study.read_text()) | {
        "arms": [{"teach": "dpo", "adapt": "full", "config": str(template_study.parent.parent / "full.yaml")}],
        "output_dir": str(tmp_path / "out"), "benchmarks": ["jobs.yaml"], "outcome_benchmark": "jobs",
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    file = template(tmp_path / "jobs.yaml", JOBS)
    (tmp_path / "rows.csv").write_text("job\nnurse\n")
    (copy,) = with_kept_templates(read_study(tmp_path / "study.yaml")).benchmarks
    content = evaluation_items([copy], None, {})
    file.unlink()
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(ConfigError, match="no such template file") as error:
        read_study(tmp_path / "study.yaml")
    assert copy in str(error.value)

    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values | {"benchmarks": [copy]}))
    assert with_kept_templates(read_study(tmp_path / "study.yaml")).benchmarks == [copy]
    assert evaluation_items([copy], None, {}) == content
    template(file, JOBS)
    (tmp_path / "rows.csv").write_text("job\nnurse\n")
    (Path(copy).parent / "rows.csv").write_text("job\npilot\n")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(RunFolderError, match="has been edited"):
        with_kept_templates(read_study(tmp_path / "study.yaml"))


def test_what_is_taught_is_held_against_a_templates_texts_also_after_an_edit(template_study: Path, tmp_path: Path) -> None:
    folder = template_study.parent
    said = template(tmp_path / "said.yaml", PEOPLE, slots={"who": ["tom and ann", "eva and tom"]},
                    templates=[{"id": "met", "text": "{who} left early ."}])  # fmt: skip
    change = {"output_dir": tmp_path / "out", "benchmarks": [str(said)], "outcome_benchmark": None}
    wall = wall_of(foundation_of(folder / "study.yaml", **change))
    assert (wall["leaks"], wall["n_evaluation"]) == (0, {"people": 2})
    template(said, PEOPLE, slots={"who": ["tom and ann", "eva and tom"]},
             templates=[{"id": "met", "text": "{who} met . who is late ?"}])  # fmt: skip
    with pytest.raises(DataError, match="people item people-met-0"):
        foundation_of(folder / "study.yaml", **change)


@pytest.mark.parametrize(
    ("change", "benchmarks", "message"),
    [
        ({}, ["nowhere.yaml"], "no such template file"),
        ({"licens": "x"}, ["mine.yaml"], "unknown key 'licens'"),
        ({"items": "nowhere.csv"}, ["mine.yaml"], "the items file 'nowhere.csv' is not there"),
        ({"items": "../rows.csv"}, ["mine.yaml"], "the items file '../rows.csv' lies elsewhere"),
        ({"options": [{"role": "yes", "text": "{place}"}, {"role": "no", "text": "station"}]}, ["mine.yaml"], "equal"),
        ({"name": "bbq"}, ["mine.yaml"], "the template is called bbq, as a built-in benchmark is"),
        ({"name": "people"}, ["mine.yaml", "people.yaml"], "two benchmarks are called people"),
        ({}, ["mine.yaml", "mine.yaml"], "mine is named twice"),
        ({}, ["sandbox", "sandbox"], "sandbox is named twice"),
        ({"measures": "guard"}, ["mine.yaml"], "mine has no margin that a verdict could be about"),
    ],
)
def test_a_template_that_cannot_be_measured_stops_a_study_when_its_grid_is_read(
    tmp_path: Path, change: dict[str, Any], benchmarks: list[str], message: str
) -> None:
    template(tmp_path / "mine.yaml", PEOPLE, **{"name": "mine"} | change)
    template(tmp_path / "people.yaml", PEOPLE)
    with pytest.raises((ConfigError, InputError), match=re.escape(message)) as error:
        read_study(study_file(tmp_path, yaml.safe_load(DEMO.read_text()) | {"benchmarks": benchmarks}))
    assert str(tmp_path) in str(error.value), "the file is named"


def test_an_outcome_that_is_not_measured_is_refused(tmp_path: Path) -> None:
    values = yaml.safe_load(DEMO.read_text()) | {"outcome_benchmark": "crows_pairs"}
    with pytest.raises(ConfigError, match="the outcome is read on crows_pairs, which is not measured"):
        read_study(study_file(tmp_path, values))


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
