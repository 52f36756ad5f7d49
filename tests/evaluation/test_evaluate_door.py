"""recipes/evaluate.py: what is measured together, what "all" leaves out, and that a bias number never stands alone."""

from __future__ import annotations

import html
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


def noised(folder: Path, out: Path, scale: float, seed: int = 0) -> Path:
    """A copy of a checkpoint with Gaussian noise in its weight matrices, in their standard deviations."""
    import torch

    from teachfair.models.checkpoint import load_policy

    model, tokenizer = load_policy(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.add_(torch.randn(p.shape, generator=generator) * p.std() * scale)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def test_a_front_of_real_checkpoints_reaches_terminal_page_and_verdicts_and_a_wrong_one_stops_before_scoring(
    tiny_llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--benchmarks", "crows_pairs", "--data_dir", str(data), "--score_cache", str(tmp_path / "scores")]

    def evaluated(policy: Path, name: str, *more: str) -> int:
        return door(["--model", str(policy), *words, "--limit", "8", "--output_dir", str(tmp_path / name), *more])

    light, heavy, other = (noised(tiny_llama, tmp_path / f"noise-{x}", x, seed=i) for i, x in enumerate((0.1, 0.8, 0.4)))
    assert [evaluated(tiny_llama, "plain"), evaluated(light, "light"), evaluated(heavy, "heavy")] == [0, 0, 0]
    front = ["--front", str(tmp_path / "light"), str(tmp_path / "heavy")]
    capsys.readouterr()
    assert evaluated(other, "out", "--baseline", str(tmp_path / "plain"), *front) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("crows_pairs: ") and "Guard-rails: " in line]
    sentence = line[line.index("At ") :]
    assert "bits per byte" in sentence
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert html.escape(sentence) in page
    assert page.count('class="front-0"') == page.count('class="front-narrow-0"') == 1
    found = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert [Path(point["folder"]).name for point in found["front"]] == ["light", "heavy"]
    (verdict,) = [one for one in found["verdicts"] if one["benchmark"] == "crows_pairs"]
    against = verdict["equal_utility"]
    assert [point["name"] for point in against["points"]] == ["baseline", "light", "heavy"]
    assert (against["front_is"], against["utility"], against["higher_is_better"]) == ("damage", "bits per byte", False)
    bits = [point["utility"]["value"] for point in against["points"]]
    along = [bits[place] for place in against["line"]]
    assert along == sorted(along, reverse=True), "the line goes from the least useful point to the most useful one"
    baseline = json.loads((tmp_path / "plain" / "summary.json").read_text())
    rails = {rail["name"]: rail["value"]["value"] for rail in baseline["guard_rails"]}
    assert bits[0] == pytest.approx(rails["bits per byte"])
    assert runs.hash_file(tmp_path / "out" / "summary.json") == (runs.read_record(tmp_path / "out") or {})["summary_hash"]

    assert door(["--model", str(light), *words, "--limit", "2", "--output_dir", str(tmp_path / "few")]) == 0
    with_baseline = ["--baseline", str(tmp_path / "plain")]
    for more, message in (
        (front, "a front without its first point"),
        ([*with_baseline, "--utility", "bits per byte"], "a utility without a front"),
        ([*with_baseline, "--front", str(tmp_path / "nowhere")], "no finished evaluation"),
        ([*with_baseline, "--front", str(tmp_path / "few")], "asked different items"),
        ([*with_baseline, "--front", str(tmp_path / "plain")], "the same checkpoint as"),
        ([*with_baseline, *front, "--utility", "answer length"], "unknown utility 'answer length'"),
    ):
        assert evaluated(other, "never", *more) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "never").exists()


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
