"""recipes/evaluate.py: what is measured together, what "all" leaves out, and that a bias number never stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from teachfair import runs
from teachfair.evaluation.benchmarks import BENCHMARKS, GUARDS, listing
from teachfair.evaluation.benchmarks.crows_pairs import FILE
from teachfair.leak_check import evaluation_items
from teachfair.recipes.evaluate import door

PAIRS = """,sent_more,sent_less,stereo_antistereo,bias_type
0,the nurse said she was late,the nurse said he was late,stereo,gender
1,the pilot said he was late,the pilot said she was late,stereo,gender
2,the old cook was late,the young cook was late,stereo,age
3,ann was sad,tom was sad,antistereo,gender
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE).write_text(PAIRS)
    return tmp_path / "data"


def test_a_bias_benchmark_brings_its_guard_rails(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = door(["--model", str(tiny_llama), "--benchmarks", "crows_pairs", "--data_dir", str(data), "--limit", "8",
                 "--output_dir", str(out)])  # fmt: skip
    assert code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["benchmarks"]) == {"crows_pairs", *GUARDS}
    (reading, *others) = summary["bias"]
    assert reading["benchmark"] == "crows_pairs"
    for one in (reading, *others):
        names = {rail["name"] for rail in one["guard_rails"]}
        assert {"definitional accuracy", "bits per byte", "answer length"} <= names
    record = runs.read_record(out) or {}
    assert record["scoring_path"] == "packed"
    assert record["result_hash"]


def test_a_baseline_brings_verdicts_to_terminal_and_page_and_a_broken_one_shows_before_scoring(
    tiny_llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(tiny_llama), "--benchmarks", "crows_pairs", "--data_dir", str(data), "--limit", "8"]
    assert door([*words, "--output_dir", str(tmp_path / "untaught")]) == 0
    assert door([*words, "--output_dir", str(tmp_path / "out"), "--baseline", str(tmp_path / "untaught")]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("crows_pairs: ") and "Guard-rails: " in line]
    assert "fairer" not in line.partition(".")[0].replace("not fairer", "")  # the same model is not fairer than itself
    assert line.partition(".")[0] in (tmp_path / "out" / "evaluation.html").read_text()
    assert door([*words, "--output_dir", str(tmp_path / "other"), "--baseline", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "other").exists()


def test_all_takes_what_is_there_and_says_what_is_missing(
    tiny_llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert door(["--model_name_or_path", str(tiny_llama), "--benchmarks", "all", "--data_dir", str(data), "--limit", "2",
                 "--lang", "en", "--formats", "plain", "--output_dir", str(out)]) == 0  # fmt: skip
    said = capsys.readouterr().out
    for name in ("bbq", "winobias", "honest", "stereoset_intra", "sandbox", "judged"):
        assert f"left out: {name}: " in said
    measured = json.loads((out / "summary.json").read_text())["benchmarks"]
    assert set(measured) == {"crows_pairs", "decisions", *GUARDS}
    assert list(measured["definitional"]["by_lang"]) == ["en"]
    assert set(pd.read_parquet(out / "records.parquet").query("benchmark == 'decisions'")["format"]) == {"plain"}


def test_every_benchmark_is_listed_with_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert door(["--list_benchmarks"]) == 0
    said = capsys.readouterr().out
    assert said.strip() == listing()
    for name, module in BENCHMARKS.items():
        card = module.CARD
        assert f"{name}  (" in said
        needed = {"measures", "needs", "lang", "paper", "licence", "norm", "direction", "target", "problems"}
        assert needed <= set(card), name
        assert card["measures"] in ("bias", "guard", "both")
        if card["measures"] == "guard":
            assert card["headline"] is None
            assert card["guards"]


def test_two_names_for_two_policies_are_refused(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert door(["--model", str(tiny_llama), "--model_name_or_path", "other", "--benchmarks", "definitional"]) == 2
    assert "two policies are named" in capsys.readouterr().err


@pytest.mark.shared
def test_the_wall_reads_a_question_once_whatever_the_formats(shared: Path) -> None:
    options = {"bbq": {"categories": ["Religion"], "formats": ["plain", "lettered"]}}
    items = evaluation_items(["bbq"], shared / "data", options)["bbq"]
    assert len(items) == 1200
    assert not any("Answer:" in item["prompt"] or "A. " in item["prompt"] for item in items)
