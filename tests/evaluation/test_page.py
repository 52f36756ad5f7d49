"""The page and the terminal's summary of one evaluation: guard-rails beside every bias number, text stays text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from teachfair import runs
from teachfair.errors import InputError, RunFolderError
from teachfair.evaluation.evaluate import RECORDS, SUMMARY, evaluate, without_nan
from teachfair.evaluation.page import PAGE, FrontFolders, check_front, write_page
from teachfair.evaluation.readings import summarise_evaluation
from teachfair.evaluation.statistics.planning import question_names
from teachfair.evaluation.summary import print_summary, summary_lines

HOSTILE = "</td></svg><script>alert(1)</script>\x1b[31m[red]"


def benchmark(name: str, **card: Any) -> Any:
    def summarise(rows: pd.DataFrame) -> dict[str, Any]:
        return {"n": len(rows), "nothing": np.nan, "margin": float(rows["margin_nats"].mean()) if len(rows) else np.nan}

    facts = {"name": name, "version": 1, "norm": "ours", "licence": "MIT", "problems": ["made up"], "meaning": "made up"}
    return SimpleNamespace(CARD=facts | card, summarise=summarise)


def modules(name: str = "mine", **card: Any) -> dict[str, Any]:
    return {name: benchmark(name, **card), "utility": benchmark("utility", measures="guard")}


def records(shift: float = 0.0, *, name: str = "mine", right: float = 0.9, text: str = "women") -> pd.DataFrame:
    """Ambiguous and disambiguated items in clusters of two, and neutral texts: everything a reading needs."""
    rng, own = np.random.default_rng(0), np.random.default_rng(1 + int(abs(shift) * 10))
    level = rng.normal(2.0, 0.5, 40)
    rows: list[dict[str, Any]] = []
    for k in range(40):
        for i in range(2):
            n = 2 * k + i
            common = {"benchmark": name, "axis": "gender" if k % 2 else "age", "groups": f"{text}|men" if k % 2 else "old",
                      "lang": "en", "problem": ""}  # fmt: skip
            rows.append({**common, "condition": "ambiguous", "item_id": f"a{n}", "cluster": f"a{k}", "correct": np.nan,
                         "margin_nats": level[k] + shift + own.normal(0, 0.1), "chosen_role": "stereotype"})  # fmt: skip
            ok = float((7 * n) % 80 < right * 80)
            rows.append({**common, "condition": "disambiguated", "item_id": f"d{n}", "cluster": f"d{k}", "correct": ok,
                         "margin_nats": np.nan, "chosen_role": "evidence" if ok else "anti"})  # fmt: skip
    rows[0] |= {"problem": "too long", "margin_nats": np.nan}
    texts = [{"benchmark": "utility", "axis": "", "groups": "", "lang": "en", "condition": "text", "item_id": f"t{i}",
              "cluster": f"t{i}", "bits_per_byte": 1 + i / 50, "n_bytes": 100, "dropped_characters": i % 3,
              "margin_nats": np.nan, "problem": ""} for i in range(20)]  # fmt: skip
    return pd.DataFrame([*rows, *texts])


def evaluation(folder: Path, rows: pd.DataFrame, known: dict[str, Any], **record: Any) -> Path:
    """A finished evaluation of these records, as ``evaluate`` leaves it."""
    folder.mkdir()
    rows.to_parquet(folder / RECORDS, index=False)
    cards = {name: module.CARD for name, module in known.items()}
    summary, undefined = without_nan(summarise_evaluation(rows, cards, modules=known))
    undefined = {path.removeprefix("benchmarks."): why for path, why in undefined.items()}
    runs.write_json(folder / SUMMARY, {**summary, "undefined": undefined})
    facts = {name: {"version": 1, "norm": "ours", "options": {}} for name in known}
    given = {"policy": "runs/taught", "policy_hash": "ab12", "policy_kind": "full", "benchmarks": facts} | record
    runs.write_record(folder, records_hash=runs.hash_file(folder / RECORDS), **given)
    return folder


def text_of(page: str) -> str:
    """Its words, without markup and styles."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    at = tmp_path_factory.mktemp("evaluations")
    return evaluation(at / "taught", records(-1.5), modules()), evaluation(at / "plain", records(), modules())


def test_a_bias_number_stands_in_one_row_with_its_guard_rails(pair: tuple[Path, Path]) -> None:
    page = write_page(pair[0], modules=modules()).read_text(encoding="utf-8")
    rows = re.findall(r'<div class="pair">.*?</table>', page, flags=re.DOTALL)
    assert len(rows) == 1
    assert "mean margin, nats" in rows[0]
    for rail in ("disambiguated accuracy", "unknown-overuse", "bits per byte"):
        assert rail in rows[0]
    assert "Guard-rails: disambiguated accuracy" in text_of(page)  # in the answer, too


def test_a_summary_with_a_bias_number_alone_is_refused(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e", records(), modules())
    summary = json.loads((folder / SUMMARY).read_text())
    summary["bias"][0]["guard_rails"] = []
    runs.write_json(folder / SUMMARY, summary)
    for show in (write_page, summary_lines):
        with pytest.raises(InputError, match="without guard-rails"):
            show(folder)
    assert not (folder / PAGE).exists()


def test_an_unguarded_benchmark_shows_no_number_but_why(tmp_path: Path) -> None:
    alone = records().query("condition == 'ambiguous'").copy()
    folder = evaluation(tmp_path / "e", alone, {"mine": benchmark("mine")})
    page = text_of(write_page(folder, modules={"mine": benchmark("mine")}).read_text(encoding="utf-8"))
    assert "mine : no bias number is shown." in page
    level = f"{alone['margin_nats'].mean():.2f}"
    assert level not in page
    lines = "\n".join(summary_lines(folder))
    assert "mine: no bias number is shown." in lines
    assert level not in lines


def test_verdict_change_and_confirmation_stand_on_top(pair: tuple[Path, Path]) -> None:
    page = text_of(write_page(pair[0], baseline=pair[1], modules=modules()).read_text(encoding="utf-8"))
    assert "taught (taught) against taught (plain)" in page  # policies of one name are told apart
    assert "mine: fairer" in page
    assert re.search(r"Change of bias −1\.\d+ \[−1\.\d+, −1\.\d+\] nats", page)
    assert "smallest detectable difference" in page


def test_equal_utility_is_a_sentence_a_picture_in_two_widths_and_a_table(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folders = tuple(
        evaluation(tmp_path / name, records(-0.6 * i, right=0.9 - 0.03 * i), modules(), policy_hash=name)
        for i, name in enumerate(("light", "heavy"), start=1)
    )
    known: dict[str, Any] = {"baseline": pair[1], "modules": modules()}
    page = write_page(pair[0], front=FrontFolders(folders), **known).read_text(encoding="utf-8")
    words = text_of(page)
    assert "At the same disambiguated accuracy (0.900), the model is less biased than the damaged baseline: " in words
    assert "Line: the baseline damaged by growing amounts" in words
    assert "0 baseline" in words
    assert "1 light" in words
    assert "gives four fifths or more" in words
    assert page.count('class="front-0"') == page.count('class="front-narrow-0"') == 1
    assert write_page(pair[0], front=FrontFolders(folders), **known).read_text(encoding="utf-8") == page
    other = text_of(write_page(pair[0], front=FrontFolders(folders, "method"), **known).read_text(encoding="utf-8"))
    assert "less biased than the other method" in other
    assert "the other method at growing strengths" in other
    assert "At equal utility" not in text_of(write_page(pair[0], **known).read_text(encoding="utf-8"))


def test_a_front_measured_with_other_files_or_versions_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    plain = evaluation(tmp_path / "plain", records(), modules(), data_hashes={"/data/pairs.csv": "aa"})
    facts = {name: {"version": 2, "norm": "ours"} for name in modules()}
    for name, record, message in (
        ("file", {"data_hashes": {"/elsewhere/pairs.csv": "bb"}}, "another version of pairs.csv"),
        ("version", {"benchmarks": facts}, "another version of benchmark mine"),
    ):
        folder = evaluation(tmp_path / name, records(-0.5), modules(), policy_hash=name, **record)
        with pytest.raises(InputError, match=message):
            check_front(FrontFolders((folder,)), plain)
    lacking = evaluation(tmp_path / "lacking", records()[lambda f: f["benchmark"] == "mine"], modules(), policy_hash="x")
    with pytest.raises(InputError, match="not measured on utility"):
        check_front(FrontFolders((lacking,)), plain)


def test_a_broken_model_is_called_broken_on_the_page(pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = evaluation(tmp_path / "broken", records(-1.5, right=0.4), modules())
    page = text_of(write_page(broken, baseline=pair[1], modules=modules()).read_text(encoding="utf-8"))
    assert "mine: fairer because broken." in page
    assert "✗ violated" in page


def test_other_items_are_not_comparable_and_the_page_says_so(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = evaluation(tmp_path / "other", records()[lambda f: f["item_id"] != "a5"], modules())
    page = text_of(write_page(pair[0], baseline=other, modules=modules()).read_text(encoding="utf-8"))
    assert "mine: not comparable. the two were scored on different items (such as a5)." in page


def test_missing_parts_say_not_measured(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e", records(), modules(), policy_hash=None)
    page = write_page(folder, modules=modules()).read_text(encoding="utf-8")
    words = text_of(page)
    for part in ("content hash not measured", "scoring path not measured", "dtype not measured",
                 "option orders not measured: asked in one way", "no baseline"):  # fmt: skip
        assert part in words
    assert re.findall(r"<td[^>]*>\s*</td>|<dd[^>]*>\s*</dd>", page) == []
    assert "too long" in words  # the problem is named
    assert "19 in 13 items" in words  # dropped characters are counted
    assert "made up" in words


def test_hostile_text_stays_text_and_nothing_is_fetched_or_run(tmp_path: Path) -> None:
    known = modules(HOSTILE, norm=HOSTILE, problems=[HOSTILE], meaning=HOSTILE, licence=HOSTILE)
    folders = [
        evaluation(tmp_path / name, records(shift, name=HOSTILE, text=HOSTILE), known, policy=HOSTILE, notes=[HOSTILE],
                   quantization={"method": HOSTILE}, data_hashes={HOSTILE: HOSTILE}, command=[HOSTILE])
        for name, shift in (("here", -1.0), ("there", 0.0))
    ]
    page = write_page(folders[0], baseline=folders[1], modules=known).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []
    from rich.console import Console

    stream = io.StringIO()
    print_summary(folders[0], Console(file=stream, width=200, force_terminal=False))
    assert "\x1b" not in stream.getvalue()
    assert "[red]" in stream.getvalue()  # not taken for markup


def test_the_same_input_gives_the_same_bytes(pair: tuple[Path, Path]) -> None:
    once = write_page(pair[0], baseline=pair[1], modules=modules()).read_bytes()
    assert write_page(pair[0], baseline=pair[1], modules=modules()).read_bytes() == once


def test_sizes_count_questions_as_the_limit_does() -> None:
    rows = records()[["item_id", "benchmark"]].assign(base_id=lambda f: f["item_id"].where(f["benchmark"] != "mine", "q"))
    assert question_names(rows[rows["benchmark"] == "mine"]).nunique() == 1
    assert question_names(rows.assign(base_id=None)).nunique() == len(rows)


def test_edited_records_have_no_page(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e", records(), modules())
    records(-9.0).to_parquet(folder / RECORDS, index=False)
    with pytest.raises(RunFolderError, match="changed"):
        write_page(folder, modules=modules())


def test_a_benchmark_this_version_does_not_know_is_still_shown(pair: tuple[Path, Path]) -> None:
    page = text_of(write_page(pair[0]).read_text(encoding="utf-8"))
    assert "not one of this version" in page
    assert "mean margin, nats" in page


def test_terminal_puts_guard_rails_below_each_number(pair: tuple[Path, Path]) -> None:
    lines = summary_lines(pair[0])
    place = next(i for i, line in enumerate(lines) if line.strip().startswith("mine"))
    assert "disambiguated accuracy" in lines[place + 1]
    line = next(line for line in lines if line.startswith("mine: "))
    assert line.startswith("mine: margin 0.4")
    assert "nothing undefined (undefined for these records)" in line


@pytest.mark.shared
def test_a_real_evaluation_has_a_page(shared: Path, tmp_path: Path) -> None:
    out = evaluate(
        shared / "models/stories260K", ["crows_pairs", "definitional", "utility"], shared / "data", tmp_path / "e", limit=20
    )
    words = text_of(write_page(out).read_text(encoding="utf-8"))
    assert "scoring path packed" in words
    assert "Creative Commons" in words or "CC BY" in words
    assert "definitional accuracy" in words
