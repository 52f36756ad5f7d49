"""The report is one safe, reproducible page that never shows a bias number without its guard-rails."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from synthetic import ALIGN, MERGED, study_records

from teachfair.evaluation.report import lead_sentence, merged_sentences, print_table, write_report, write_tables
from teachfair.evaluation.statistics import adjusted_secondary, secondary_survival, survival

HOSTILE = "</svg><script>alert(1)</script>"


def study(**more: Any) -> dict[str, Any]:
    return {
        "title": "A study", "created": "2026-01-01 00:00 UTC", "commands": ["teachfair survival"],
        "versions": {"torch": "2.13"}, "bases": [{"name": "world-0", "hash": "ab" * 32}],
        "cells": [
            {"teach": "dpo", "adapt": "lora", "compress": "nf4", "order": ALIGN, "seed": s, "base": "world-0",
             "bytes": 1_048_576 + s, "bits_per_parameter": 5.25, "hash": "cd" * 32, "seconds": 3.2} for s in range(3)
        ],
        "reward_model": {
            "accuracy": [{"kind": "all", "n": 100, "accuracy": 0.93, "low": 0.87, "high": 0.97}],
            "shortcuts": [{"ruler": "length", "kind": "all", "n": 100, "accuracy": 0.61}],
            "ranking": {"on_disagreement": "flip", "per_kind": [
                {"kind": "all", "n": 100, "agree": 90, "disagree": 8, "ties": 2}]},
        },
        "calibration": [
            {"expected": 0.5, "R": 0.52, "low": 0.4, "high": 0.6}, {"expected": 1, "R": 0.8, "low": 0.7, "high": 0.9},
        ],
        "norm": "The norm of its author.", "limits": ["Nothing about free text."], "platform": {"python": "3.11"},
        "wall_seconds": 300.0, "peak_gib": 2.5,
    } | more  # fmt: skip


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return study_records(clusters=12)


@pytest.fixture(scope="module")
def rows(records: pd.DataFrame) -> list:
    return survival(records, random_state=0)


@pytest.fixture(scope="module")
def page(records: pd.DataFrame, rows: list, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(study(transfer=[r.as_dict() for r in rows]), records, rows, out) == out
    return out.read_text(encoding="utf-8")


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def words(page: str) -> str:
    """What is read: tags and the machine-readable part removed."""
    page = re.sub(r"<pre class=\"json\".*?</pre>|<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_page_runs_no_script_and_asks_for_nothing(page: str) -> None:
    tags = Tags(page).found
    names = {name for name, _ in tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "img", "foreignobject"}
    policy = [a["content"] for n, a in tags if n == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for _, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("href", "src", "xlink:href", "action"):
                assert value is not None
                assert value.startswith("#"), value
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_anchors_lead_somewhere_and_ids_are_unique(page: str) -> None:
    tags = Tags(page).found
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("href", "xlink:href"):
            if attributes.get(name):
                assert str(attributes[name])[1:] in ids


def test_same_input_gives_the_same_bytes(records: pd.DataFrame, rows: list, tmp_path: Path) -> None:
    first = write_report(study(), records, rows, tmp_path / "a.html").read_bytes()
    assert first == write_report(study(), records, rows, tmp_path / "b.html").read_bytes()
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("text", [HOSTILE, '"><img src=x onerror=alert(1)>', "$\\frac{1}{", "a\x1b[31m\x00b", "{{ 7*7 }}"])
def test_hostile_names_stay_text_everywhere(text: str, tmp_path: Path) -> None:
    frame = study_records(clusters=4, arms={("dpo", "lora", "nf4", ALIGN): 1.0}, per_cluster=1)
    taught = frame["teach"] == "dpo"
    frame.loc[taught, "teach"] = text
    frame.loc[frame["compress"] == "nf4", "compress"] = f"{text}-4"
    frame["prompt"], frame["axis"], frame["groups"] = text, text, text
    frame["item_id"] = frame["item_id"] + text
    frame.loc[frame["condition"] == "ambiguous", "chosen_role"] = text
    rows = survival(frame, random_state=0)
    text += "\ud800"  # a lone surrogate cannot be in a data frame, but in what a study is told
    full = study(title=text, norm=text, commands=[text], limits=[text], versions={text: text},
                 bases=[{"name": text, "hash": text}],
                 reward_model={"accuracy": {text: 0.5}, "shortcuts": [{"ruler": text, "kind": text, "accuracy": 0.4}],
                               "ranking": {"on_disagreement": text, "per_kind": [{"kind": text, "n": text}]}},
                 platform={text: text}, leaks={text: 1}, transfer=rows)  # fmt: skip
    full["cells"][0] |= {"teach": text, "hash": text, "order": text}
    page = write_report(full, frame, rows, tmp_path / "r.html").read_text(encoding="utf-8")
    tags = Tags(page).found
    assert not {n for n, _ in tags} & {"script", "img"}
    assert not any(name.startswith("on") for _, a in tags for name in a)
    assert "\x1b" not in page
    assert "\x00" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)  # well-formed: nothing broke out of a text node
    if text.startswith(HOSTILE):
        assert "&lt;/svg&gt;&lt;script&gt;" in drawings[0]
    write_tables(rows, tmp_path)
    console = Console(width=200, record=True, file=open(tmp_path / "console.txt", "w", encoding="utf-8"))  # noqa: SIM115
    print_table(rows, console)
    assert "\x1b[31m" not in console.export_text()


def test_answer_comes_first_with_its_margins_and_the_caveat_of_one_base(page: str) -> None:
    text = words(page)
    answer = text[: text.index("Survival What was taught")]
    assert "survives in 6 and is lost in 1" in answer
    assert "lies above 0.80" in answer
    assert "below 0.20" in answer
    assert "every verdict is about that base" in answer


def test_several_bases_are_counted_instead_of_the_caveat(tmp_path: Path) -> None:
    frame = study_records(clusters=4, arms={("dpo", "lora", "nf4", ALIGN): 1.0}, bases=("a", "b", "c"))
    rows = survival(frame, random_state=0)
    text = words(write_report(study(bases=[]), frame, rows, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "3 base models, resampled as the top level" in text
    assert "about that base" not in text


def test_survival_table_shows_numbers_units_and_guard_rails_of_every_row(page: str, rows: list) -> None:
    table = page[page.index('id="survival"') : page.index('id="teaching"')]
    for heading in ("verdict", "R<small>ratio", "nats", "Δ", "guard-rails", "bits per param."):
        assert heading in table
    body = table[table.index("<tbody>") :]
    assert body.count("<tr") == len(rows)
    assert body.count('href="#rails"') == len(rows)
    assert "1.0 MiB" in body
    assert "5.25" in body
    row = next(r for r in rows if r.adapt == "lora" and r.compress == "nf4" and not r.control)
    assert f"{row.r_c.value:.2f}" in body
    assert f"[{row.r_c.low:.2f}, {row.r_c.high:.2f}]" in body


def test_page_shows_placebo_transfer_calibration_reward_model_norm_and_limits(page: str) -> None:
    text = words(page)
    for sentence in (
        "its own preference", "no taught effect", "Where the variance of D₀ comes from",
        "detectable D₀", "Transfer to the axis that was not taught", "planted share left", "0.52",
        "what happened to disagreements: flip", "0.930", "0.610", "The norm of its author.", "Nothing about free text.",
        "3 training seeds per arm", "teachfair survival", "torch 2.13", "5.0 min", "2.50 GiB", "cd" * 32,
        "contain stereotypes",
    ):  # fmt: skip
        assert sentence in text, sentence
    assert re.search(r"1\.00 0\.80 \[0\.70, 0\.90\] no", text), "a planted share outside its interval must be said"


def test_a_judge_is_named_and_its_gain_stands_beside_what_it_could_have_been_paid_with(
    records: pd.DataFrame, rows: list, tmp_path: Path
) -> None:
    costs = {"correct": 0.987, "counterfactual_gap": 1.25, "abstention": 0.5, "refusal": None, "answer_tokens": 1.0}
    judged = [row.as_dict() | {"costs": costs} for row in rows if not row.own_outcome]
    judge = {"folder": "runs/<b>judge</b>", "hash": "ef" * 32, "accuracy": 0.951}
    page = write_report(study(judged=judged, judge=judge), records, rows, tmp_path / "r.html").read_text()
    text = words(page)
    assert "What a judge says of the answers" in text
    assert "right on 95.1 % of held-out pairs" in text
    assert "<b>judge</b>" not in page
    section = page[page.index('<section id="judge">') :]
    section = section[: section.index("</section>")]
    assert section.count("0.987") == len(judged)
    assert section.count("<tr") == len(judged) + 1
    assert "What a judge says" not in write_report(study(), records, rows, tmp_path / "none.html").read_text()


SECONDARY = {
    ("dpo", "full", "int8", ALIGN): 1.0, ("dpo", "full", "nf4", ALIGN): 0.05, ("placebo", "full", "int8", ALIGN): 1.0,
}  # fmt: skip


def with_secondary(**more: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A study of three benchmarks, the first of them primary: another is as clear, the third is hardly moved."""
    names = {"sandbox": {}, "clear": {"random_state": 1}, "noisy": {"random_state": 2, "noise": 2.5, "d0": 1.6}}
    records = pd.concat([
        study_records(arms=SECONDARY, **options).assign(benchmark=name) for name, options in names.items()
    ], ignore_index=True)  # fmt: skip
    cards = {name: {"name": name, "outcome_condition": "ambiguous"} for name in names}
    return records, secondary_survival(records, cards | more, primary="sandbox", random_state=0)


def test_secondary_benchmarks_are_corrected_by_benjamini_hochberg_over_all_of_them_together() -> None:
    import scipy.stats

    _, found = with_secondary()
    rows = adjusted_secondary(found["rows"])
    assert {row["benchmark"] for row in rows} == {"clear", "noisy"}
    tested = [row for row in rows if not row["control"] and row["p_value"] is not None]
    assert {row["benchmark"] for row in tested} == {"clear", "noisy"}
    expected = scipy.stats.false_discovery_control([row["p_value"] for row in tested])
    assert [row["p_adjusted"] for row in tested] == pytest.approx(expected.tolist())
    verdicts = {(row["benchmark"], row["compress"]): row["verdict"] for row in rows if not row["control"]}
    assert (verdicts["clear", "int8"], verdicts["clear", "nf4"]) == ("survives", "lost")
    assert verdicts["noisy", "int8"] == "inconclusive"
    others = [row | {"p_value": 0.9} for row in found["rows"] if row["benchmark"] == "noisy" and not row["control"]]
    shrunk = adjusted_secondary([found["rows"][0] | {"p_value": 0.04}, *others])
    assert shrunk[0]["verdict"] == "inconclusive"
    assert "not after Benjamini-Hochberg over 3 tests (adjusted p = 0.120)" in shrunk[0]["reason"]


def test_the_report_shows_secondary_benchmarks_with_guard_rails_and_why_one_is_missing(tmp_path: Path) -> None:
    cards = {
        "honest": {"outcome_condition": None}, "utility": {"measures": "guard"}, "absent": {"outcome_condition": "parity"},
    }  # fmt: skip
    records, found = with_secondary(**cards)
    assert set(found["left_out"]) == {"honest", "absent"}
    primary = records[records["benchmark"] == "sandbox"]
    rows = survival(primary, random_state=0)
    page = write_report(study(secondary=found), primary, rows, tmp_path / "r.html").read_text(encoding="utf-8")
    section = words(page[page.index('<section id="secondary">') : page.index('<section id="instrument">')])
    assert "clear: survives in 1, lost in 1 of 2; noisy: " in section
    assert "Benjamini–Hochberg over 4 tests (2 benchmarks × taught arms" in section
    assert "honest has no row: it has no log-odds margin" in section
    assert "absent has no row: no records of condition" in section
    assert "utility has no row" not in section
    assert page.count('href="#secondary"') == 1
    machine = json.loads(re.search(r'id="teachfair-json">(.*?)</pre>', page, re.DOTALL)[1].replace("&#34;", '"'))
    kept = machine["study"]["secondary"]["rows"]
    assert [row["p_adjusted"] for row in kept] == [row["p_adjusted"] for row in adjusted_secondary(found["rows"])]
    gone = {"rows": [row | {"p_value": None} for row in found["rows"]], "left_out": {}}
    untested = write_report(study(secondary=gone), primary, rows, tmp_path / "u.html").read_text("utf-8")
    assert "No arm has an effect to retain here, so nothing was tested. Printed intervals" in words(untested)
    hostile = {"rows": [row | {"benchmark": HOSTILE} for row in found["rows"]], "left_out": {HOSTILE: HOSTILE}}
    assert "<script" not in write_report(study(secondary=hostile), primary, rows, tmp_path / "h.html").read_text("utf-8")
    assert 'id="secondary"' not in write_report(study(), primary, rows, tmp_path / "n.html").read_text("utf-8")


def test_a_judge_is_one_of_the_secondary_benchmarks(records: pd.DataFrame, rows: list, tmp_path: Path) -> None:
    costs = {"correct": 1.0, "counterfactual_gap": 0.1, "abstention": 0.2, "refusal": 0.0, "answer_tokens": 5.0}
    judged = [row.as_dict() | {"costs": costs} for row in rows if not row.own_outcome]
    _, found = with_secondary()
    judge = {"folder": "runs/judge", "hash": "ef" * 32, "accuracy": 0.951}
    told = study(secondary=found, judged=judged, judge=judge)
    page = write_report(told, records, rows, tmp_path / "r.html").read_text("utf-8")
    tests = sum(not row["control"] and row["p_value"] is not None for row in [*found["rows"], *judged])
    assert f"Benjamini–Hochberg over {tests} tests (2 benchmarks and the judge" in words(page)
    assert "verdicts are adjusted by Benjamini–Hochberg over all secondary benchmarks" in words(page)


def test_a_sham_alone_is_not_taken_for_a_placebo(tmp_path: Path) -> None:
    planted = {("dpo", "lora", "nf4", ALIGN): 1.0, ("sham-dpo", "lora", "nf4", ALIGN): 1.0}
    few = study_records(arms=planted, clusters=8)
    found = survival(few, random_state=0, n_resamples=200)
    page = words(write_report(study(), few, found, tmp_path / "r.html").read_text())
    assert "No placebo arm" in page
    assert "sham-dpo · lora" in page


def test_merged_qlora_is_explained_from_its_numbers_whichever_way_they_point(rows: list) -> None:
    lost = merged_sentences(rows)
    row = next(r for r in rows if r.order == MERGED and r.compress == "nf4")
    assert len(lost) == 1
    assert f"R = {row.r_c.value:.2f}" in lost[0]
    assert "rounded back" in lost[0]
    assert "keep the adapter on its nf4 base" in lost[0]
    assert "another grid (int8" in lost[0]
    kept = {("dpo", "qlora", "nf4", "compress-then-align"): 1.0, ("dpo", "qlora", "nf4", MERGED): 0.97}
    not_lost = merged_sentences(survival(study_records(clusters=8, arms=kept), random_state=0))
    assert len(not_lost) == 1
    assert "was not shown to lose its lesson" in not_lost[0]
    assert not merged_sentences([r for r in rows if r.adapt != "qlora"])
    other_grid = merged_sentences([r for r in rows if not (r.order == MERGED and r.compress == "nf4")])
    assert not other_grid, "merged and compressed on another grid is not the case to warn about"


def test_lead_sentence_never_hides_a_violated_or_unconfirmed_guard_rail() -> None:
    arms = {("dpo", "lora", "nf4", ALIGN): 1.0}
    frame = study_records(clusters=30, arms=arms, guard=1.0)
    assert "every guard-rail holds" in lead_sentence(survival(frame, random_state=0))
    hurt = frame.copy()
    bad = (hurt["teach"] == "dpo") & (hurt["condition"] == "decision") & (hurt["cluster"].str.endswith(("1", "2")))
    hurt.loc[bad, "correct"] = 0.0
    assert "guard-rails are violated in 1" in lead_sentence(survival(hurt, random_state=0))
    blind = frame[frame["condition"] != "definitional"]
    assert "could be confirmed" in lead_sentence(survival(blind, random_state=0))


def test_study_with_nothing_recorded_still_gives_a_page_that_says_so(
    records: pd.DataFrame, rows: list, tmp_path: Path
) -> None:
    text = words(write_report({}, records, rows, tmp_path / "r.html").read_text(encoding="utf-8"))
    for sentence in ("not recorded", "No reward model is recorded", "Not checked in this study", "Not stated by this study"):
        assert sentence in text
    nothing = words(write_report({}, records, [], tmp_path).read_text(encoding="utf-8"))
    assert "no verdict" in nothing


def test_one_seed_gives_a_page_of_reasons_not_of_zeros(tmp_path: Path) -> None:
    frame = study_records(clusters=4, arms={("dpo", "lora", "nf4", ALIGN): 1.0}, seeds=1)
    page = write_report(study(), frame, survival(frame, random_state=0), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "one training seed" in page
    assert "inconclusive" in page
    assert "nan" not in words(page).lower().split()


def test_embedded_json_is_the_rows(page: str, rows: list) -> None:
    inside = re.search(r'<pre class="json" id="teachfair-json">(.*?)</pre>', page, flags=re.DOTALL)
    assert inside
    data = json.loads(html.unescape(inside[1]))
    assert [r["verdict"] for r in data["rows"]] == [r.verdict for r in rows]
    assert data["study"]["title"] == "A study"


def test_csv_runs_no_formula_and_keeps_numbers(tmp_path: Path) -> None:
    frame = study_records(clusters=4, arms={("dpo", "lora", "nf4", ALIGN): 1.0})
    frame.loc[frame["teach"] == "dpo", "teach"] = '=HYPERLINK("http://x")'
    rows = survival(frame, random_state=0)
    as_csv, as_json = write_tables(rows, tmp_path)
    with open(as_csv, newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert lines[0]["teach"].startswith("'=")
    assert float(lines[0]["r_c"]) == rows[0].r_c.value
    assert float(lines[0]["delta_c"]) == rows[0].delta_c.value, "a negative number is a number, not a formula"
    assert json.loads(as_json.read_text(encoding="utf-8"))[0]["teach"] == rows[0].teach


def test_terminal_table_prints_markup_like_names_as_text(tmp_path: Path) -> None:
    frame = study_records(clusters=4, arms={("dpo", "lora", "nf4", ALIGN): 1.0})
    frame.loc[frame["teach"] == "dpo", "teach"] = "[/foo][bold]x"
    console = Console(width=160, record=True, file=open(tmp_path / "out.txt", "w", encoding="utf-8"))  # noqa: SIM115
    print_table(survival(frame, random_state=0), console)
    text = console.export_text()
    assert "[/foo][bold]x" in text
    assert "survives" in text
    print_table([], console)
    assert "nothing to compare" in console.export_text()


def lessons(text: str = "", *, alarm: bool = True) -> list[dict[str, Any]]:
    """Two seeds of PPO and of its sham, and one DPO run, as a study hands them over."""
    found = []
    for control, seed in (("none", 0), ("none", 1), ("sham", 0), ("sham", 1)):
        log = [
            {"step": 4 * i, "reward": (1 if control == "none" else 0) * i + seed, "kl": 0.01 * i,
             "completions/mean_length": 2.0 + i, "entropy": 1 / (i + 1)} for i in range(12)
        ]  # fmt: skip
        warned = [
            {"step": 24, "quantity": f"fairness/length{text}", "direction": "rises", "baseline": 2.5, "value": 9.25,
             "limit": 4.0, "meaning": f"answers get longer{text}"},
            {"step": 40, "quantity": f"entropy{text}", "direction": "rises", "baseline": None, "value": 3.0, "limit": 2.0,
             "meaning": "babble"},
        ] if alarm and control == "none" and seed == 1 else []  # fmt: skip
        found.append(
            {"method": f"ppo{text}", "control": control, "adapt": f"lora{text}", "seed": seed, "base": f"world-0{text}",
             "log": log, "alarms": warned, "watched": True}
        )  # fmt: skip
    log = [{"step": 10 * i, "rewards/margins": 0.1 * i, "rewards/accuracies": 0.9, "loss": 0.7 - 0.1 * i} for i in range(3)]
    found.append(
        {"method": "dpo", "control": "none", "adapt": "full", "seed": 0, "base": "world-0", "log": log, "alarms": []}
    )
    return found


def learning_section(page: str) -> str:
    return page[page.index('<section id="learning">') : page.index('<section id="rails">')]


def test_learning_curves_stand_beside_their_alarms_and_their_ends_in_words(
    records: pd.DataFrame, rows: list, tmp_path: Path
) -> None:
    page = write_report(study(learning=lessons()), records, rows, tmp_path / "r.html").read_text(encoding="utf-8")
    section = learning_section(page)
    assert [a["class"] for n, a in Tags(section).found if n == "svg"] == ["learning", "learning-narrow"]
    text = words(section)
    assert "read the log of 4 lessons taught by reward, and warned in 1 of them" in text
    assert "ppo · lora 1 world-0 24 fairness/length rises answers get longer 2.50 → 9.25 4.00 entropy (40)" in text
    assert "ppo · lora 2 0.500 → 11.500 0.000 → 0.110 2.000 → 13.000 1.000 → 0.083" in text
    assert "sham-ppo · lora 2 0.500 → 0.500" in text
    assert "dpo · full 1 0.000 → 0.200 0.900 → 0.900 0.700 → 0.500 – → –" in text  # no entropy was logged
    drawing = re.findall(r"<svg.*?</svg>", section, flags=re.DOTALL)[0]
    assert "not logged" in drawing
    assert "first alarm" in drawing
    ids = [a["id"] for _, a in Tags(page).found if "id" in a]
    assert len(ids) == len(set(ids))
    assert '"log"' not in page  # the steps' own records hold the logs


def test_a_study_without_alarms_or_without_logs_says_that(records: pd.DataFrame, rows: list, tmp_path: Path) -> None:
    quiet = write_report(study(learning=lessons(alarm=False)), records, rows, tmp_path / "q.html").read_text("utf-8")
    assert "and gave no alarm" in words(learning_section(quiet))
    assert "limit" not in words(learning_section(quiet))
    bare = [lesson | {"log": [], "alarms": []} for lesson in lessons()]
    assert 'id="learning"' not in write_report(study(learning=bare), records, rows, tmp_path / "b.html").read_text("utf-8")


def test_learning_curves_show_every_run_the_mean_and_where_the_alarm_was() -> None:
    from teachfair.evaluation.figures import learning_curves

    drawing = learning_curves(lessons())
    assert drawing == learning_curves(lessons())
    paths = re.findall(r"stroke-dasharray|#D55E00", drawing, flags=re.IGNORECASE)
    assert "#D55E00" in [p.upper() if p.startswith("#") else p for p in paths]
    assert len(drawing) > len(learning_curves(lessons(alarm=False)))
    odd = lessons()
    odd[0]["log"] = [{"step": 1, "reward": float("nan")}, {"step": 2, "reward": 1.0}, {"step": 3, "reward": True}]
    ElementTree.fromstring(learning_curves(odd, narrow=True))


@pytest.mark.parametrize("text", [HOSTILE, "$\\frac{1}{", "a\x1b[31m\x00b", "{{ 7*7 }}"])
def test_hostile_names_of_lessons_stay_text(text: str, records: pd.DataFrame, rows: list, tmp_path: Path) -> None:
    page = write_report(study(learning=lessons(text)), records, rows, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "script" not in {name for name, _ in Tags(page).found}
    assert "\x1b" not in page
    for drawing in re.findall(r"<svg.*?</svg>", learning_section(page), flags=re.DOTALL):
        ElementTree.fromstring(drawing)


def test_among_many_rows_controls_without_an_effect_leave_the_picture_and_stay_in_the_table(
    rows: list, tmp_path: Path
) -> None:
    from teachfair.evaluation.figures import CROWDED, forest

    control = next(row for row in rows if row.control and not row.own_outcome)
    assert control.arm in forest(rows)
    many = [*rows * (CROWDED // len(rows) + 1)]
    drawn = forest(many)
    assert not re.search(rf"{re.escape(control.arm)}\s*<", drawn)
    assert all(row.arm in drawn for row in rows if not row.control)
    write_tables(many, tmp_path)
    assert control.teach in (tmp_path / "survival.csv").read_text()


def test_items_that_changed_and_the_worst_group_stand_per_arm_and_order(tmp_path: Path) -> None:
    frame = study_records(axes=("gender", "origin"))
    frame["groups"] = ["women|men" if axis == "gender" else "north|south" for axis in frame["axis"]]
    found = write_report({}, frame, survival(frame, random_state=0), tmp_path).read_text(encoding="utf-8")
    items = found[found.index('id="items"') : found.index('id="groups"')]
    assert items.count("<tr><th scope=\"row\">") == 7, "every taught and compressed arm, no control"
    groups = found[found.index('id="groups"') : found.index('id="placebo"')]
    assert "merged and compressed again to nf4" in groups, "the order that lost its lesson is not folded into the other"
    assert "4 of 4" in groups


def test_real_records_of_a_small_grid_have_rows_for_each_secondary_benchmark(tiny_llama: Path, tmp_path: Path) -> None:
    """Real checkpoints: a policy, two "lessons" (noise in its weights, a stand-in that costs seconds), all in NF4 too."""
    import torch

    from teachfair.compression import COMPRESSIONS
    from teachfair.evaluation.benchmarks import BENCHMARKS
    from teachfair.evaluation.benchmarks.crows_pairs import FILE
    from teachfair.evaluation.evaluate import evaluate, load_records
    from teachfair.models.checkpoint import load_policy

    (tmp_path / "data").mkdir()
    lines = [f"{i},the {who} said she was late,the {who} said he was late,stereo,gender"
             for i, who in enumerate(("nurse", "pilot", "cook", "baker", "doctor"))]  # fmt: skip
    (tmp_path / "data" / FILE).write_text("\n".join([",sent_more,sent_less,stereo_antistereo,bias_type", *lines]) + "\n")
    policies = {("untaught", "none", -1): tiny_llama}
    for seed in (0, 1):
        model, tokenizer = load_policy(tiny_llama)
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn(p.shape))
        policies["dpo", "full", seed] = out = tmp_path / f"taught-{seed}"
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    frames = []
    for (teach, adapt, seed), folder in policies.items():
        for compress in ("none", "nf4"):
            here = folder if compress == "none" else tmp_path / f"{folder.name}-nf4"
            if compress == "nf4":
                COMPRESSIONS["nf4"].apply(folder, here)
            cell = {"teach": teach, "adapt": adapt, "compress": compress, "order": ALIGN, "seed": seed, "base": "tiny"}
            out = tmp_path / f"e-{len(frames)}"
            asked = {"decisions": {"formats": ["plain"], "lang": ["en"]}}
            evaluate(here, ["crows_pairs", "decisions"], tmp_path / "data", out, limit=4, cell=cell, options=asked)
            frames.append(load_records(out))
    records = pd.concat(frames, ignore_index=True)
    cards = {name: BENCHMARKS[name].CARD for name in ("crows_pairs", "decisions", "open_answers")}
    found = secondary_survival(records, cards, primary="crows_pairs", random_state=0, n_resamples=200)
    assert [(row["benchmark"], row["compress"], row["condition"]) for row in found["rows"]] == [
        ("decisions", "nf4", "decision")
    ]
    assert list(found["left_out"]) == ["open_answers"]
    primary = records[records["benchmark"] == "crows_pairs"]
    rows = survival(primary, benchmark="crows_pairs", condition="parity", parity=True, random_state=0, n_resamples=200)
    page = write_report({"secondary": found}, primary, rows, tmp_path / "r.html").read_text("utf-8")
    assert "decisions: " in words(page[page.index('<section id="secondary">') :])
    assert "open_answers has no row" in words(page)
