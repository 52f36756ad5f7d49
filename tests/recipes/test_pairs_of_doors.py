"""What the training doors do with pairs before they train: hold them against the benchmarks they are told of, refuse a
lesson of "cannot tell" only, leave out contested ones."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from teachfair import runs

RECIPES = {"dpo": "dpo_fair", "ppo": "ppo_fair", "grpo": "grpo_fair", "rloo": "rloo_fair", "reward-model": "reward_model"}
PEOPLE = ("tom", "ann", "ben", "eva")
LEAK = "tom is late ."


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CrowS-Pairs in its authors' format."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "crows_pairs").mkdir()
    columns = "sent_more sent_less stereo_antistereo bias_type annotations anon_writer anon_annotators".split()
    with open(folder / "crows_pairs" / "crows_pairs_anonymized.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", *columns])
        writer.writerow([0, LEAK, "ann is late .", "stereo", "gender", "[]", "a1", "[]"])
    return folder


def pairs(path: Path, *extra: str) -> Path:
    asked = [f"{PEOPLE[i % 4]} and {PEOPLE[(i + 1) % 4]} met . who is late ?" for i in range(16)]
    rows = [{"prompt": text, "chosen": "cannot tell", "rejected": PEOPLE[i % 4]} for i, text in enumerate([*asked, *extra])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(verb: str, policy: Path, dataset: Path, out: Path, *more: str) -> int:
    words = ["--model_name_or_path", str(policy), "--dataset_name", str(dataset), "--output_dir", str(out)]
    words += ["--max_steps", "1", "--per_device_train_batch_size", "8", "--report_to", "none", "--save_strategy", "no"]
    words += ["--disable_tqdm", "true", "--activation_checkpointing", "false"]
    if verb in ("ppo", "grpo", "rloo"):
        words += ["--max_completion_length", "2", "--reward_model_name_or_path", "none-there"]
    door: Any = importlib.import_module(f"teachfair.recipes.{RECIPES[verb]}").door
    return int(door([*words, *more]))


@pytest.mark.parametrize("verb", RECIPES)
def test_an_item_among_what_a_door_would_teach_stops_it_before_training(
    verb: str, tiny_llama: Path, benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before the reward model is asked for: the one named here does not exist."""
    rows = pairs(tmp_path / "pairs.jsonl", LEAK)
    wall = ["--wall_benchmarks", "crows_pairs", "--wall_data_dir", str(benchmarks)]
    if verb == "reward-model":
        wall += ["--test_share", "0"]
    assert run(verb, tiny_llama, rows, tmp_path / "out", *wall) == 2
    said = capsys.readouterr().err
    assert "crows_pairs item" in said
    assert "--allow_leaks" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["dpo", "reward-model"])
def test_what_was_found_travels_with_the_record(verb: str, tiny_llama: Path, benchmarks: Path, tmp_path: Path) -> None:
    wall = ["--wall_benchmarks", "crows_pairs", "--wall_data_dir", str(benchmarks)]
    share = ["--test_share", "0"] if verb == "reward-model" else []
    clean, leaky = pairs(tmp_path / "clean.jsonl"), pairs(tmp_path / "leaky.jsonl", LEAK)

    def record(name: str, dataset: Path, *more: str) -> dict[str, Any]:
        assert run(verb, tiny_llama, dataset, tmp_path / name, *share, *more) == 0
        return runs.read_record(tmp_path / name) or {}

    found = record("held", clean, *wall)["wall"]
    assert (found["leaks"], found["n_train"], found["n_evaluation"]) == (0, 16, {"crows_pairs": 1})
    found = record("allowed", leaky, *wall, "--allow_leaks")["wall"]
    assert (found["leaks"], found["train_rows"]["exact"], found["n_train"]) == (1, 1, 17)
    assert "wall" not in record("not-asked", leaky), "nothing is said of what was not compared"


def test_the_prompts_of_an_online_door_are_counted_in_its_record(
    tiny_llama: Path, benchmarks: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    judge = tmp_path / "judge"
    AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1).save_pretrained(judge)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(judge)
    more = ["--wall_benchmarks", "crows_pairs", "--wall_data_dir", str(benchmarks), "--allow_leaks"]
    more += ["--reward_model_name_or_path", str(judge), "--max_completion_length", "2"]
    out = tmp_path / "out"
    assert run("ppo", tiny_llama, pairs(tmp_path / "pairs.jsonl", LEAK), out, *more) == 0
    found = (runs.read_record(out) or {})["wall"]
    assert (found["leaks"], found["train_rows"]["exact"]) == (1, 1)


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--wall_benchmarks", "crow_pairs"], "crows_pairs"), (["--wall_benchmarks", "crows_pairs"], "data_dir")],
)
def test_a_benchmark_that_is_not_known_or_not_there_is_told_before_anything_is_made(
    more: list[str], told: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("dpo", tiny_llama, pairs(tmp_path / "pairs.jsonl"), tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_sandboxs_lesson_and_its_benchmark_are_apart_at_the_doors() -> None:
    """As the doors compare them: the world of the arguments, pairs and prompts of the training split."""
    from teachfair.alignment import lesson, online_lesson
    from teachfair.alignment.arguments import OnlineArguments, TeachArguments
    from teachfair.leak_check import asked_for

    sandbox = lesson.sandbox(seed=1, bias=2.0)
    for own in (TeachArguments(), OnlineArguments()):
        own.world_seed, own.wall_benchmarks = 1, ["sandbox,judged"]
        evaluation = asked_for(own)
        assert set(evaluation) == {"sandbox", "judged"}
        rows = (
            lesson.pairs_from(own, sandbox=sandbox) if isinstance(own, TeachArguments)
            else online_lesson.prompts_from(own, sandbox=sandbox, seed=0)
        )  # fmt: skip
        found = lesson.held_apart(rows, evaluation, allow=False) or {}
        assert found["leaks"] == 0
        assert found["n_train"] == len(rows)


def test_the_dpo_door_refuses_a_lesson_of_cannot_tell_only_unless_forced_and_records_the_mix(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = pairs(tmp_path / "plain.jsonl")
    rows = [json.loads(line) | {"kind": "cant-tell-vs-anti"} for line in plain.read_text().splitlines()]
    only = tmp_path / "only.jsonl"
    only.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("dpo", tiny_llama, only, tmp_path / "out") == 2
    assert "--force_mix" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("dpo", tiny_llama, only, tmp_path / "out", "--force_mix") == 0
    assert (runs.read_record(tmp_path / "out") or {})["mix"]["forced"] is True
    assert run("dpo", tiny_llama, plain, tmp_path / "plain") == 0
    assert (runs.read_record(tmp_path / "plain") or {})["mix"]["kinds"] == {"unspecified": 16}


@pytest.mark.parametrize("verb", ["dpo", "reward-model"])
def test_contested_pairs_are_left_out_and_the_list_is_named_in_the_record(
    verb: str, tiny_llama: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) | {"id": f"p{i}"} for i, line in enumerate(pairs(tmp_path / "p").read_text().splitlines())]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    contested = tmp_path / "contested.txt"
    contested.write_text("p1\np2\np77\n")
    more = ["--exclude_ids", str(contested), *(["--test_share", "0"] if verb == "reward-model" else [])]
    assert run(verb, tiny_llama, tmp_path / "pairs.jsonl", tmp_path / "out", *more) == 0
    record = runs.read_record(tmp_path / "out") or {}
    read = record["as_read"] if verb == "dpo" else record["data"]["train"]["as_read"]
    assert (read["kept"], read["excluded"]) == (14, 2)
    assert (read["exclusions"][0]["ids"], read["exclusions"][0]["met"]) == (3, 2)
    assert len(read["exclusions"][0]["sha256"]) == 64
