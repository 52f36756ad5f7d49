"""On-policy pairs: a policy answers, a reward model judges, a file that the teaching door reads comes out whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from online import online_pairs

from teachfair.data.pairs import read_preference_file
from teachfair.recipes.sample_pairs import door
from teachfair.runs import hash_file

pytest_plugins = ["online"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in online_pairs()))
    return path


def words(policy: Path, judge: Path, asked: Path, output: Path, *more: str) -> list[str]:
    return [
        "--model_name_or_path", str(policy), "--reward_model_name_or_path", str(judge), "--dataset_name", str(asked),
        "--output", str(output), "--max_new_tokens", "6", "--num_candidates", "3", "--min_margin", "0", *more,
    ]  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_best_and_the_worst_sampled_answer_become_a_pair_with_provenance(
    tiny_llama: Path, reward_model_folder: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from teachfair.models.checkpoint import content_hash
    from teachfair.reward_models.scoring import RewardModel

    out = tmp_path / "deep" / "round2.jsonl"
    assert door(words(tiny_llama, reward_model_folder, asked, out, "--temperature", "1.5", "--seed", "4")) == 0
    rows = rows_of(out)
    prompts = [row["prompt"] for row in online_pairs()]
    assert rows
    assert all(row["prompt"] in prompts and row["reward_chosen"] > row["reward_rejected"] for row in rows)
    judge = RewardModel.load(reward_model_folder)
    again = judge.score([row["prompt"] + row["chosen"] for row in rows])
    assert again.tolist() == pytest.approx([row["reward_chosen"] for row in rows], abs=1e-5)
    came_from = json.loads((out.parent / "round2.jsonl.provenance.json").read_text())
    assert came_from["policy_hash"] == content_hash(tiny_llama)
    assert came_from["reward_model_hash"] == content_hash(reward_model_folder)
    assert came_from["sha256"] == hash_file(out)
    assert (came_from["seed"], came_from["temperature"], came_from["num_candidates"]) == (4, 1.5, 3)
    assert came_from["n_pairs"] == len(rows) == len(prompts) - came_from["all_equal"]
    read, counts = read_preference_file(out)
    assert counts.kept == len(rows), "the teaching door reads it as it is"
    assert read[0]["chosen"] == rows[0]["chosen"]
    assert f"{len(rows)} pairs" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_file_another_seed_another_and_parquet_the_same_rows(
    tiny_llama: Path, reward_model_folder: Path, asked: Path, tmp_path: Path
) -> None:
    files = {}
    for name, seed in (("a.jsonl", "0"), ("b.jsonl", "0"), ("c.jsonl", "1"), ("d.parquet", "0")):
        files[name] = tmp_path / name
        assert door(words(tiny_llama, reward_model_folder, asked, files[name], "--seed", seed)) == 0
    assert files["a.jsonl"].read_bytes() == files["b.jsonl"].read_bytes() != files["c.jsonl"].read_bytes()
    assert read_preference_file(files["d.parquet"])[0] == read_preference_file(files["a.jsonl"], source="policy")[0]


def test_pairs_that_the_reward_model_hardly_tells_apart_are_left_out_and_counted(
    tiny_llama: Path, reward_model_folder: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every, some = tmp_path / "every.jsonl", tmp_path / "some.jsonl"
    assert door(words(tiny_llama, reward_model_folder, asked, every)) == 0
    margins = sorted(row["reward_chosen"] - row["reward_rejected"] for row in rows_of(every))
    least = (margins[3] + margins[4]) / 2
    assert door(words(tiny_llama, reward_model_folder, asked, some, "--min_margin", str(least))) == 0
    assert len(rows_of(some)) == len(margins) - 4
    assert json.loads((tmp_path / "some.jsonl.provenance.json").read_text())["below_margin"] == 4
    assert door(words(tiny_llama, reward_model_folder, asked, some, "--overwrite", "--min_margin", "1e9")) == 2
    assert "no pair has a margin" in capsys.readouterr().err
    assert len(rows_of(some)) == len(margins) - 4, "the old file stays"


def test_what_cannot_work_is_refused_before_anything_is_sampled(
    tiny_llama: Path, reward_model_folder: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "there.jsonl"
    out.write_text("mine\n")
    for more, message in (
        ([], "already there"),
        (["--output", str(tmp_path / "x.csv")], "unknown output format"),
        (["--overwrite", "--num_candidates", "1"], "make no pair"),
        (["--overwrite", "--temperature", "0"], "temperature is 0.0"),
        (["--overwrite", "--reward_model_name_or_path", str(tiny_llama)], "language model without a reward head"),
    ):
        assert door(words(tiny_llama, reward_model_folder, asked, out, *more)) == 2
        assert message in capsys.readouterr().err
    alone = ["--model_name_or_path", str(tiny_llama), "--dataset_name", str(asked), "--output", str(tmp_path / "n.jsonl")]
    assert door(alone) == 2
    assert "nobody judges" in capsys.readouterr().err
    assert out.read_text() == "mine\n"
    assert list(tmp_path.iterdir()) == [out]
