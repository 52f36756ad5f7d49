from __future__ import annotations

import json
import math
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from teachfair.compression import get as compression
from teachfair.errors import CheckpointError, ConfigError, DataError, InputError, RunFolderError
from teachfair.evaluation.benchmarks import BENCHMARKS, crows_pairs, get
from teachfair.evaluation.evaluate import RECORD_COLUMNS, evaluate, load_records, without_nan
from teachfair.models.checkpoint import content_hash
from teachfair.runs import hash_file, read_record

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
CELL = {
    "teach": "untaught",
    "adapt": "none",
    "compress": "none",
    "order": "align-then-compress",
    "seed": -1,
    "base": "b",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    names = ["tom", "ann", "ben", "eva"]
    rows = [
        f'{i},{names[i % 4]} met the {job},{names[(i + 1) % 4]} met the {job},stereo,{axis},"[]",a0,"[]"\n'
        for i, (job, axis) in enumerate(
            zip(["nurse", "pilot", "cook", "baker"] * 3, ["age", "gender"] * 6, strict=True)
        )
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / crows_pairs.FILE).write_text(HEADER + "".join(rows))
    return folder


def test_evaluation_writes_records_summary_and_run_record(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    out = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out", cell=CELL)
    assert {path.name for path in out.iterdir()} == {"records.parquet", "summary.json", "run.json"}
    records = load_records(out)
    assert set(RECORD_COLUMNS) | set(CELL) <= set(records.columns)
    assert len(records) == 12
    assert set(records["teach"]) == {"untaught"}
    assert records["roles"][0] == ["stereotype", "anti"]
    assert all(isinstance(value, float) for value in records["logps_whole"][0])
    summary = json.loads((out / "summary.json").read_text())
    numbers = summary["benchmarks"]["crows_pairs"]
    assert numbers["n"] == 12
    assert numbers["n_more"] == int((records["margin_nats"] > 0).sum())
    assert numbers["pct_more"] == pytest.approx(100 * (records["margin_nats"] > 0).mean())
    record = read_record(out)
    assert record is not None
    assert record["policy_hash"] == content_hash(tiny_llama)
    assert list(record["data_hashes"].values()) == [hash_file(data_dir / crows_pairs.FILE)]
    assert record["dtype"] == "float32"
    assert record["device"] == "cpu"
    assert record["prompt_format"]["chat_template"] == "the policy's own"
    assert {"torch", "transformers"} <= set(record["versions"])
    assert record["seconds"] >= record["benchmarks"]["crows_pairs"]["seconds"] >= 0
    assert record["cell"] == CELL


def test_a_policy_of_any_kind_is_judged(
    tiny_llama: Path, lora_folder: Path, qlora_folder: Path, data_dir: Path, tmp_path: Path
):
    policies = {
        "full": tiny_llama,
        "lora": lora_folder,
        "qlora": qlora_folder,
        "int8": compression("int8").apply(tiny_llama, tmp_path / "int8").path,
    }
    margins = {
        name: load_records(evaluate(policy, ["crows_pairs"], data_dir, tmp_path / f"out-{name}"))[
            "margin_nats"
        ]
        for name, policy in policies.items()
    }
    for name in ("lora", "qlora", "int8"):
        assert np.abs(margins[name] - margins["full"]).max() > 1e-4


def test_same_policy_gives_the_same_bytes_of_records(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    first, second = (evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / name) for name in "ab")
    pd.testing.assert_frame_equal(load_records(first), load_records(second))


def test_limit_spreads_over_the_file(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    out = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out", limit=3)
    assert load_records(out)["item_id"].tolist() == [
        "crows_pairs-0000",
        "crows_pairs-0004",
        "crows_pairs-0008",
    ]
    with pytest.raises(InputError, match="limit"):
        evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "none", limit=0)


def test_every_mistake_leaves_no_folder_behind(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="did you mean 'crows_pairs'"):
        evaluate(tiny_llama, ["crow_pairs"], data_dir, out)
    with pytest.raises(InputError, match="no benchmark"):
        evaluate(tiny_llama, [], data_dir, out)
    with pytest.raises(InputError, match="twice"):
        evaluate(tiny_llama, ["crows_pairs", "crows_pairs"], data_dir, out)
    with pytest.raises(CheckpointError):
        evaluate(tmp_path / "absent", ["crows_pairs"], data_dir, out)
    with pytest.raises(ConfigError, match="data"):
        evaluate(tiny_llama, ["crows_pairs"], tmp_path, out)
    (data_dir / crows_pairs.FILE).write_text(HEADER + "0,one\n")
    with pytest.raises(DataError):
        evaluate(tiny_llama, ["crows_pairs"], data_dir, out)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_taken_folder_is_left_alone(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    out = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out")
    before = hash_file(out / "run.json")
    with pytest.raises(RunFolderError):
        evaluate(tiny_llama, ["crows_pairs"], data_dir, out)
    assert hash_file(out / "run.json") == before


def test_unfinished_or_edited_records_are_not_loaded(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    out = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out")
    edited = pd.read_parquet(out / "records.parquet")
    edited.loc[0, "margin_nats"] = 0.0
    edited.to_parquet(out / "records.parquet")
    with pytest.raises(RunFolderError, match="changed"):
        load_records(out)
    (out / "run.json").unlink()
    with pytest.raises(RunFolderError, match="no finished evaluation"):
        load_records(out)


def toy(**changes) -> types.SimpleNamespace:
    """A benchmark from outside: one object, no file of ours touched."""
    record = {
        "benchmark": "toy",
        "cluster": "c",
        "axis": "age",
        "groups": "",
        "lang": "en",
        "condition": "parity",
        "roles": ["right", "wrong"],
        "logps_first": [-1.0, -2.0],
        "logps_whole": [-1.0, -2.0],
        "n_tokens": [1, 1],
        "chosen_role": "right",
        "margin_nats": math.nan,
        "correct": 1.0,
        "own": "column",
    }
    parts = {
        "CARD": {"name": "toy", "version": "1", "norm": "ours"},
        "items": lambda data_dir, n=2: [{"id": f"toy-{index}"} for index in range(n)],
        "score": lambda scorer, items, progress=None: [
            {**record, "item_id": item["id"]} for item in items
        ],
        "summarise": lambda records: {
            "accuracy": records["correct"].mean(),
            "gap": math.nan,
            "other": {"rate": math.nan},
            "reasons": {"gap": "one group only"},
        },
    }
    return types.SimpleNamespace(**{**parts, **changes})


def test_a_benchmark_object_from_outside_runs_beside_a_named_one(
    tiny_llama: Path, data_dir: Path, tmp_path: Path
):
    out = evaluate(
        tiny_llama, ["crows_pairs", toy()], data_dir, tmp_path / "out", options={"toy": {"n": 3}}, cell=CELL
    )
    records = load_records(out)
    assert records["benchmark"].value_counts().to_dict() == {"crows_pairs": 12, "toy": 3}
    assert records.loc[records["benchmark"] == "toy", "own"].tolist() == ["column"] * 3
    summary = json.loads((out / "summary.json").read_text())
    assert summary["benchmarks"]["toy"]["gap"] is None  # never 0, which reads as fair
    assert summary["undefined"]["toy.gap"] == "one group only"
    assert summary["undefined"]["toy.other.rate"]


def test_a_benchmark_that_breaks_the_contract_is_named(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(InputError, match="lack the columns") as caught:
        evaluate(tiny_llama, [toy(score=lambda *args, **kw: [{"item_id": "x"}])], None, tmp_path / "out")
    assert "toy" in caught.value.where
    with pytest.raises(DataError, match="same id"):
        evaluate(tiny_llama, [toy(items=lambda data_dir: [{"id": "x"}, {"id": "x"}])], None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_names_the_benchmark(tiny_llama: Path, data_dir: Path, tmp_path: Path):
    seen = []
    evaluate(
        tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out", progress=lambda *step: seen.append(step)
    )
    assert seen[-1][0] == "crows_pairs"
    assert seen[-1][1] == seen[-1][2]


def test_nan_becomes_null_with_its_reason():
    plain, undefined = without_nan(
        {"a": {"b": np.float64("nan"), "reasons": {"b": "why"}}, "c": [1.0, math.inf]}
    )
    assert plain == {"a": {"b": None, "reasons": {"b": "why"}}, "c": [1.0, None]}
    assert undefined == {"a.b": "why", "c": "undefined for these records"}


def test_known_benchmarks_are_modules_with_cards():
    assert "crows_pairs" in BENCHMARKS
    for name, module in BENCHMARKS.items():
        assert get(name) is module
        assert module.CARD["name"] == name


@pytest.mark.shared
def test_real_checkpoint_without_a_template_gets_one_for_the_run(shared: Path, tmp_path: Path):
    out = evaluate(
        shared / "models" / "stories260K", ["crows_pairs"], shared / "data", tmp_path / "out", limit=50
    )
    record = read_record(out)
    assert record is not None
    assert record["prompt_format"]["chat_template"] == "added"
    assert record["benchmarks"]["crows_pairs"]["items"] == 50
    assert len(load_records(out)) == 50
