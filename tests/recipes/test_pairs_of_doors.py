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


@pytest.fixture(scope="module")
def judge(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("judge") / "rm"
    AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


def test_the_prompts_of_an_online_door_are_counted_in_its_record(
    tiny_llama: Path, benchmarks: Path, judge: Path, tmp_path: Path
) -> None:
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


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def arguments_of(verb: str, judge: Path) -> list[str]:
    if verb in ("ppo", "grpo", "rloo"):
        return ["--reward_model_name_or_path", str(judge), *(["--num_generations", "4"] if verb != "ppo" else [])]
    return ["--test_share", "0"] if verb == "reward-model" else []


@pytest.mark.parametrize("verb", RECIPES)
def test_every_door_refuses_a_lesson_of_cannot_tell_only_unless_forced_and_records_the_mix(
    verb: str, tiny_llama: Path, judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = arguments_of(verb, judge)
    plain = pairs(tmp_path / "plain.jsonl")
    only = written(tmp_path / "only.jsonl", [row | {"kind": "cant-tell-vs-anti"} for row in rows_of(plain)])
    assert run(verb, tiny_llama, only, tmp_path / "out", *more) == 2
    said = capsys.readouterr().err
    assert '"cannot tell" is the fair answer and in none is it the evidence' in said
    assert "--force_mix" in said
    assert not (tmp_path / "out").exists()
    assert run(verb, tiny_llama, only, tmp_path / "out", *more, "--force_mix") == 0
    assert (runs.read_record(tmp_path / "out") or {})["mix"]["forced"] is True
    if verb != "ppo":  # the online doors are alike in this
        return
    assert run(verb, tiny_llama, plain, tmp_path / "plain", *more) == 0
    assert (runs.read_record(tmp_path / "plain") or {})["mix"]["unknown"] == 16


def test_a_lesson_whose_kinds_are_not_known_is_taught_by_dpo(tiny_llama: Path, tmp_path: Path) -> None:
    assert run("dpo", tiny_llama, pairs(tmp_path / "plain.jsonl"), tmp_path / "plain") == 0
    assert (runs.read_record(tmp_path / "plain") or {})["mix"]["kinds"] == {"unspecified": 16}


def test_prompts_by_their_condition_are_refused_online_and_a_placebos_are_not_asked(
    tiny_llama: Path, judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [{"prompt": row["prompt"], "condition": "ambiguous"} for row in rows_of(pairs(tmp_path / "p"))]
    only = written(tmp_path / "only.jsonl", asked)
    assert run("grpo", tiny_llama, only, tmp_path / "out", *arguments_of("grpo", judge)) == 2
    assert "condition ambiguous" in capsys.readouterr().err
    placebo = ["--control", "placebo", "--placebo_dataset_name", str(only)]
    placebo += ["--placebo_reward_model_name_or_path", str(judge), "--num_generations", "4"]
    assert run("grpo", tiny_llama, only, tmp_path / "placebo", *placebo) == 0
    assert "mix" not in (runs.read_record(tmp_path / "placebo") or {})


def sample(policy: Path, judge: Path, dataset: Path, output: Path, *more: str) -> int:
    from teachfair.recipes.sample_pairs import door

    words = ["--model_name_or_path", str(policy), "--reward_model_name_or_path", str(judge), "--dataset_name", str(dataset)]
    words += ["--output", str(output), "--max_new_tokens", "3", "--num_candidates", "3", "--min_margin", "0"]
    return int(door([*words, *more]))


def test_sampling_refuses_cannot_tell_only_leaves_contested_prompts_out_and_what_it_writes_is_held_apart_when_taught(
    tiny_llama: Path, judge: Path, benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"kind": "cant-tell-vs-anti", "id": f"p{i}"} for i, row in enumerate(rows_of(pairs(tmp_path / "p", LEAK)))]
    asked, out = written(tmp_path / "pairs.jsonl", rows), tmp_path / "round2.jsonl"
    assert sample(tiny_llama, judge, asked, out) == 2
    assert "in none is it the evidence" in capsys.readouterr().err
    contested = tmp_path / "contested.txt"
    contested.write_text("p0\np99\n")
    assert sample(tiny_llama, judge, asked, out, "--force_mix", "--exclude_ids", str(contested)) == 0
    told = json.loads((tmp_path / "round2.jsonl.provenance.json").read_text())
    assert told["mix"]["forced"] is True
    same = sum(row["prompt"] == rows[0]["prompt"] for row in rows)
    assert (told["as_read"]["excluded"], told["as_read"]["exclusions"][0]["met"], same) == (4, 1, 4)
    assert rows[0]["prompt"] not in [row["prompt"][0]["content"] for row in rows_of(out)]
    assert LEAK in [row["prompt"][0]["content"] for row in rows_of(out)], "the sampled pairs hold the item"
    wall = ["--wall_benchmarks", "crows_pairs", "--wall_data_dir", str(benchmarks)]
    assert run("dpo", tiny_llama, out, tmp_path / "taught", *wall) == 2
    assert "crows_pairs item" in capsys.readouterr().err


def test_answers_that_the_dpo_door_samples_are_held_apart_before_they_are_taught(
    tiny_llama: Path, judge: Path, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The pairs that are read hold no item; what the policy says to their prompts does."""
    from teachfair.alignment import sampling

    def answers(model: Any, tokenizer: Any, prompts: list[Any], **options: Any) -> list[list[str]]:
        return [[LEAK, "ben"]] * len(prompts)

    monkeypatch.setattr(sampling, "sample_answers", answers)
    more = ["--wall_benchmarks", "crows_pairs", "--wall_data_dir", str(benchmarks), "--candidates", "policy"]
    more += ["--reward_model_name_or_path", str(judge)]
    assert run("dpo", tiny_llama, pairs(tmp_path / "pairs.jsonl"), tmp_path / "out", *more) == 2
    assert "crows_pairs item" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["dpo", "reward-model"])
def test_contested_pairs_are_left_out_and_the_list_is_named_in_the_record(
    verb: str, tiny_llama: Path, tmp_path: Path
) -> None:
    written(tmp_path / "pairs.jsonl", [row | {"id": f"p{i}"} for i, row in enumerate(rows_of(pairs(tmp_path / "p")))])
    contested = tmp_path / "contested.txt"
    contested.write_text("p1\np2\np77\n")
    more = ["--exclude_ids", str(contested), *(["--test_share", "0"] if verb == "reward-model" else [])]
    assert run(verb, tiny_llama, tmp_path / "pairs.jsonl", tmp_path / "out", *more) == 0
    record = runs.read_record(tmp_path / "out") or {}
    read = record["as_read"] if verb == "dpo" else record["data"]["train"]["as_read"]
    assert (read["kept"], read["excluded"]) == (14, 2)
    assert (read["exclusions"][0]["ids"], read["exclusions"][0]["met"]) == (3, 2)
    assert len(read["exclusions"][0]["sha256"]) == 64


def test_contested_prompts_are_not_asked_online_and_the_list_is_named_in_the_record(
    tiny_llama: Path, judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [{"prompt": f"{one} and {other} met . who ?", "id": i} for i, one in enumerate(PEOPLE) for other in PEOPLE]
    asked = [row | {"id": f"p{i}"} for i, row in enumerate(asked)]
    file = written(tmp_path / "prompts.jsonl", asked)
    contested = tmp_path / "contested.txt"
    contested.write_text("p1\np2\np77\n")
    more = [*arguments_of("ppo", judge), "--exclude_ids", str(contested)]
    assert run("ppo", tiny_llama, file, tmp_path / "out", *more) == 0
    record = runs.read_record(tmp_path / "out") or {}
    read = record["as_read"]
    assert (read["read"], read["kept"], read["excluded"], record["n_prompts"]) == (16, 14, 2, 14)
    assert (read["exclusions"][0]["ids"], read["exclusions"][0]["met"]) == (3, 2)
    assert len(read["exclusions"][0]["sha256"]) == 64

    nameless = written(tmp_path / "nameless.jsonl", [{"prompt": row["prompt"]} for row in asked])
    assert run("rloo", tiny_llama, nameless, tmp_path / "none", *more) == 2
    assert "no prompt has an id" in capsys.readouterr().err


@pytest.mark.shared
def test_a_prompt_of_several_pairs_goes_as_soon_as_one_of_them_is_contested(shared: Path, tmp_path: Path) -> None:
    from teachfair.alignment.arguments import OnlineArguments
    from teachfair.alignment.online_lesson import prompts_from
    from teachfair.data.pairs import counts_of

    contested = tmp_path / "contested.txt"
    contested.write_text("bbq-Age-0-cant-tell-vs-anti\n")
    own = OnlineArguments(dataset_name=str(shared / "data" / "bbq" / "Age.jsonl"), dataset_source="bbq")
    every = prompts_from(own, sandbox=None, seed=0)
    own.exclude_ids = str(contested)
    some = prompts_from(own, sandbox=None, seed=0)
    assert set(every["id"]) - set(some["id"]) == {"bbq-Age-0-cant-tell-vs-stereotype"}, "the prompt's other pair"
    counts = counts_of(some)
    assert (counts["excluded"], counts["exclusions"][0]["met"]) == (2, 1)
    assert counts["read"] == counts["kept"] + counts["excluded"] + sum(counts["dropped"].values()) + counts["not_asked"]


def test_the_sandbox_has_no_contested_prompts(tmp_path: Path) -> None:
    from teachfair.alignment import lesson, online_lesson
    from teachfair.alignment.arguments import OnlineArguments
    from teachfair.errors import ConfigError

    sandbox = lesson.sandbox(seed=0, bias=2.0)
    own = OnlineArguments(exclude_ids=str(tmp_path / "list"))
    with pytest.raises(ConfigError, match="none is contested"):
        online_lesson.prompts_from(own, sandbox=sandbox, seed=0)
    own.control = "placebo"
    assert len(online_lesson.prompts_from(own, sandbox=sandbox, seed=0)), "the list is of the lesson's"
