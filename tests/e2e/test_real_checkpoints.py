"""The whole path on real files and small real checkpoints: pairs → reward model → DPO → compress → CrowS-Pairs.

On checkpoints this small the numbers are noise; what is tested is that every door takes what they really are: fp16
weights, a tokenizer whose tokens cross word borders, benchmark files in their authors' formats.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from teachfair import runs
from teachfair.recipes import classify, compress, dpo_fair, evaluate, reward_model

pytestmark = pytest.mark.shared

TINY = [
    "--max_steps", "4", "--per_device_train_batch_size", "8", "--report_to", "none", "--save_strategy", "no",
    "--activation_checkpointing", "false", "--disable_tqdm", "true", "--logging_steps", "1",
]  # fmt: skip


@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_pairs_to_reward_model_to_dpo_to_nf4_to_crows_on_a_real_checkpoint(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, pairs = str(shared / "models" / name), str(shared / "data" / "stereoset_pairs_phd")
    source = ["--dataset_name", pairs, "--dataset_source", "stereoset_pairs", "--drop_equal"]
    judge, taught, small, scores = (tmp_path / folder for folder in ("judge", "taught", "small", "scores"))

    assert reward_model.door(
        ["--model_name_or_path", policy, *source, "--max_pairs", "160", "--output_dir", str(judge),
         "--learning_rate", "1e-3", *TINY]
    ) == 0, capsys.readouterr().err  # fmt: skip
    record = runs.read_record(judge) or {}
    assert record["shortcuts"]
    assert {row["kind"] for row in record["accuracy"]} >= {"all"}

    assert dpo_fair.door(
        ["--model_name_or_path", policy, *source, "--max_pairs", "96", "--reward_model_name_or_path", str(judge),
         "--on_disagreement", "flip", "--output_dir", str(taught), "--learning_rate", "1e-2", "--use_peft",
         "--load_in_4bit", "--lora_r", "4", "--lora_target_modules", "all-linear", *TINY]
    ) == 0, capsys.readouterr().err  # fmt: skip
    ranking = (runs.read_record(taught) or {})["ranking"]
    everything = next(row for row in ranking["per_kind"] if row["kind"] == "all")
    assert everything["agree"] + everything["disagree"] + everything["ties"] == 96

    assert compress.door(["--model_name_or_path", str(taught), "--compression", "int8", "--output_dir", str(small)]) == 0
    accounting = runs.read_record(small) or {}
    assert accounting["n_quantised_layers"] > 0
    assert 8 < accounting["bits_per_parameter"] < 32

    assert evaluate.door(
        ["--model_name_or_path", str(small), "--benchmarks", "crows_pairs", "--data_dir", str(shared / "data"),
         "--limit", "60", "--output_dir", str(scores)]
    ) == 0, capsys.readouterr().err  # fmt: skip
    summary = json.loads((scores / "summary.json").read_text())["benchmarks"]["crows_pairs"]
    assert summary["n"] == 60
    assert 0 <= summary["pct_more"] <= 100

    texts = tmp_path / "texts.txt"
    texts.write_text("She is a nurse.\nHe is a nurse.\n\n")
    assert classify.door(
        ["--model_name_or_path", str(judge), "--file", str(texts), "--output", str(tmp_path / "labels.jsonl")]
    ) == 0  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [row["label"] in ("fair", "unfair") for row in rows] == [True, True, False]
    assert rows[2]["reason"] == "empty"


def test_candidates_sampled_from_the_policy_are_ranked_by_the_reward_model(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, judge = str(shared / "models" / "stories260K"), tmp_path / "judge"
    pairs = tmp_path / "pairs.jsonl"
    with open(pairs, "w") as stream:
        for i in range(24):
            row = {"prompt": f"Once upon a time number {i}", "chosen": "she was happy", "rejected": "he was sad"}
            print(json.dumps(row), file=stream)
    common = ["--model_name_or_path", policy, "--dataset_name", str(pairs), *TINY]
    assert reward_model.door([*common, "--output_dir", str(judge)]) == 0, capsys.readouterr().err
    out = tmp_path / "taught"
    words = ["--candidates", "policy", "--num_candidates", "2", "--reward_model_name_or_path", str(judge)]
    assert dpo_fair.door([*common, *words, "--output_dir", str(out)]) == 0, capsys.readouterr().err
    record = runs.read_record(out) or {}
    assert record["ranking"]["n_prompts"] == 24
    assert record["n_pairs"] == record["ranking"]["n_pairs"] > 0
