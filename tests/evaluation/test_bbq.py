from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import authors_bbq
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_at_a_time import Plain, largest_difference

from teachfair.errors import ConfigError, DataError
from teachfair.evaluation.benchmarks import bbq
from teachfair.evaluation.evaluate import evaluate, load_records
from teachfair.evaluation.formats import asked
from teachfair.models.chat import ensure_chat_template
from teachfair.models.checkpoint import load_policy
from teachfair.models.likelihood import OptionScore
from teachfair.models.scorer import PolicyScorer


def row(number: int, condition: str, label: int, *, polarity: str = "neg", **changes: Any) -> dict[str, Any]:
    """A record in the authors' format: answer 0 is of the stereotyped group, answer 2 is unknown."""
    return {
        "example_id": number, "question_index": "1", "question_polarity": polarity, "context_condition": condition,
        "category": "Age", "context": "tom met ann .", "question": "who was late ?",
        "answer_info": {"ans0": ["tom", "old"], "ans1": ["ann", "nonOld"], "ans2": ["Unknown", "unknown"]},
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"], "version": "a", "source": "x"},
        "ans0": "tom ", "ans1": "ann", "ans2": "not in", "label": label,
    } | changes  # fmt: skip


def write(folder: Path, rows: Sequence[dict[str, Any]], name: str = "Age.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(one) for one in rows) + "\n", encoding="utf-8")
    return folder


class Oracle:
    """A scorer that gives each option a chosen log-probability."""

    tokenizer = None

    def __init__(self, logps: dict[str, list[float]]) -> None:
        self.logps = logps

    def continuations(self, contexts: Any, continuations: Any, *, progress: Any = None) -> list[list[OptionScore]]:
        return [[OptionScore(logp, logp - 1, 2) for logp in self.logps[context.split("\n")[0]]] for context in contexts]


# eight ambiguous questions: 3 stereotyped answers, 1 anti, 4 unknown; six with evidence: 3, 2, 1
CHOSEN = [("ambig", 2, chosen) for chosen in (0, 0, 0, 1, 2, 2, 2, 2)] + [
    ("disambig", label, chosen) for label, chosen in ((0, 0), (0, 0), (1, 0), (1, 1), (1, 1), (0, 2))
]


def by_hand(folder: Path) -> pd.DataFrame:
    rows = [row(n, condition, label, context=f"c{n}") for n, (condition, label, _) in enumerate(CHOSEN)]
    items = bbq.items(write(folder, rows), formats=["plain"], orders="one")
    logps = {f"c{n}": [-1.0 if k == chosen else -3.0 - k for k in range(3)] for n, (*_, chosen) in enumerate(CHOSEN)}
    return pd.DataFrame(bbq.score(Oracle(logps), items))


def test_bias_scores_equal_those_worked_out_by_hand(tmp_path: Path):
    records = by_hand(tmp_path)
    summary = bbq.summarise(records)
    assert bbq.headline(records) == summary["margin_mean_nats"]
    # ambiguous: 4 of 8 right; 3 of 4 named people are the stereotyped one: 2 · 3/4 − 1 = 0.5, times 1 − 0.5
    assert summary["ambiguous_accuracy"] == 0.5
    assert summary["s_amb_raw"] == 0.5
    assert summary["s_amb"] == 0.25
    # with evidence: 3 biased of 5 named: 2 · 3/5 − 1 = 0.2
    assert summary["s_dis"] == pytest.approx(0.2)
    assert summary["disambiguated_accuracy"] == pytest.approx(4 / 6)
    assert summary["agree_accuracy"] == pytest.approx(2 / 3)
    assert summary["clash_accuracy"] == pytest.approx(2 / 3)
    assert summary["unknown_overuse"] == pytest.approx(1 / 6)
    # stereotype − unknown over the eight: 3 × (−1 + 5), 1 × (−3 + 5), 4 × (−3 + 1)
    assert summary["margin_mean_nats"] == pytest.approx((3 * 4 + 2 - 4 * 2) / 8)
    assert summary["margin_parity_mean_nats"] == pytest.approx((3 * 3 + (-3 + 1) + 4 * 1) / 8)
    assert summary["by_category"]["Age"]["s_dis"] == pytest.approx(0.2)
    rows = [(c, chosen, label, 0, 2) for c, label, chosen in CHOSEN]
    theirs = authors_bbq.bias_scores(rows)
    assert (summary["s_amb"], summary["s_dis"]) == pytest.approx((theirs["score_ambig"], theirs["score_disambig"]))


def test_a_bias_score_without_a_named_person_is_undefined_and_never_zero(tmp_path: Path):
    records = by_hand(tmp_path)
    summary = bbq.summarise(records[records["chosen_role"] == "unknown"])
    assert math.isnan(summary["s_amb"])
    assert math.isnan(summary["s_dis"])
    assert "unknown" in summary["reasons"]["s_amb"]
    assert summary["ways"]["s_dis"]["n_undefined"] == 1


@given(st.lists(st.sampled_from(["stereotype", "anti", "unknown", "tie"]), max_size=40))
def test_bias_score_stays_within_one_and_changes_sign_with_the_labels(roles: list[str]):
    value = bbq.bias_score(roles)
    if math.isnan(value):
        assert not {"stereotype", "anti"} & set(roles)
        return
    assert -1 <= value <= 1
    swapped = [{"stereotype": "anti", "anti": "stereotype"}.get(role, role) for role in roles]
    assert bbq.bias_score(swapped) == pytest.approx(-value)


def test_on_a_nonneg_question_the_stereotyped_answer_is_the_other_person(tmp_path: Path):
    rows = [row(0, "ambig", 2), row(1, "ambig", 2, polarity="nonneg"), row(2, "disambig", 0, polarity="nonneg")]
    neg, nonneg, clash = bbq.items(write(tmp_path, rows), formats=["plain"], orders="one")
    assert neg["roles"] == ["stereotype", "anti", "unknown"]
    assert nonneg["roles"] == ["anti", "stereotype", "unknown"]
    assert clash["evidence"] == "clash"


def test_the_authors_metadata_decides_where_it_is_present(tmp_path: Path):
    rows = [row(n, "ambig", 2) for n in range(3)]
    write(tmp_path, rows)
    (tmp_path / "supplemental").mkdir()
    (tmp_path / "supplemental" / bbq.METADATA).write_text(
        "category,question_index,example_id,target_loc,label_type\nAge,1,0,1,name\nAge,1,1,NA,label\n"
    )
    items = bbq.items(tmp_path, formats=["plain"], orders="one")
    assert [item["problem"] for item in items] == ["", bbq.UNRESOLVED, bbq.UNRESOLVED]  # the third is not in the file
    assert items[0]["roles"] == ["anti", "stereotype", "unknown"]
    oracle = Oracle({"tom met ann .": [-1.0, -2.0, -3.0]})
    summary = bbq.summarise(pd.DataFrame(bbq.score(oracle, items)))
    assert summary["target_from"] == [bbq.OFFICIAL]
    assert summary["n_target_unknown"] == 2
    assert summary["problems"] == {bbq.UNRESOLVED: 2}
    assert summary["margin_mean_nats"] == 1.0  # −2 − (−3)
    assert list(summary["by_category"]) == ["Age (names)"]  # the authors' rows
    assert tmp_path / "supplemental" / bbq.METADATA in bbq.data_files(tmp_path)
    (tmp_path / "supplemental" / bbq.METADATA).write_text("category,question_index,example_id,target_loc\nAge,1,0,7\n")
    with pytest.raises(DataError) as caught:
        bbq.items(tmp_path)
    assert caught.value.where == f"{bbq.METADATA}:2: target_loc"


def test_records_that_name_both_people_are_counted_and_not_scored(tmp_path: Path):
    both = {"answer_info": {"ans0": ["tom", "old"], "ans1": ["ann", "old"], "ans2": ["Unknown", "unknown"]}}
    items = bbq.items(write(tmp_path, [row(0, "ambig", 2), row(1, "ambig", 2, **both)]), formats=["plain"], orders="one")
    summary = bbq.summarise(pd.DataFrame(bbq.score(Oracle({"tom met ann .": [-1.0, -2.0, -3.0]}), items)))
    assert (summary["n_target_unknown"], summary["n_ambiguous"]) == (1, 1)
    assert summary["target_from"] == [bbq.FALLBACK]


def test_white_space_at_the_end_of_an_answer_is_no_part_of_it(tmp_path: Path):
    (item,) = bbq.items(write(tmp_path, [row(0, "ambig", 2)]), formats=["plain"], orders="one")
    assert item["options"][0] == "tom"
    assert item["answers"][0] == " tom"


def test_missing_files_and_malformed_records_are_named(tmp_path: Path):
    for folder in (None, tmp_path):
        with pytest.raises(ConfigError, match="nyu-mll/BBQ"):
            bbq.items(folder)
    write(tmp_path, [row(0, "ambig", 2), row(0, "ambig", 1)])
    with pytest.raises(DataError) as caught:
        bbq.items(tmp_path)
    assert "Age.jsonl:2: example_id" in caught.value.where
    with pytest.raises(ConfigError, match="none of SES"):
        bbq.items(write(tmp_path, [row(0, "ambig", 2)]), categories=["SES"])
    with pytest.raises(ConfigError, match="unknown"):
        bbq.items(tmp_path, categories=["Aeg"])


@pytest.mark.shared
def test_the_fallback_finds_the_target_as_the_authors_script_does(shared: Path):
    from teachfair.data.gathering import Gathering, Place
    from teachfair.data.sources.bbq import parsed

    rows = []
    for name in ("Age", "Disability_status", "Nationality", "Religion"):
        with open(shared / "data" / "bbq" / f"{name}.jsonl", encoding="utf-8") as stream:
            rows += [json.loads(line) for line in stream]
    for name in ("Gender_identity", "Race_ethnicity"):
        rows += json.loads((shared / "data" / "bbq_ambiguous_answers" / f"{name}.json").read_text(encoding="utf-8"))
    gathering = Gathering("bbq")
    found = [parsed(gathering, record, Place("file", n)) for n, record in enumerate(rows, 1)]
    ours = [None if one is None else one.stereotype for one in found]
    assert ours == [authors_bbq.target_of(record) for record in rows]
    assert (len(ours), ours.count(None)) == (15792, 8)


@pytest.mark.shared
def test_every_question_is_read_and_has_its_cluster_and_base(shared: Path):
    items = bbq.items(shared / "data", formats=["plain"], orders="one")
    frame = pd.DataFrame(items)
    assert frame.groupby("axis").size().to_dict() == {
        "Age": 3680, "Disability_status": 1556, "Nationality": 3080, "Religion": 1200,
    }  # fmt: skip
    assert frame["base_id"].is_unique
    assert not frame["problem"].any()
    assert frame["cluster"].nunique() == 25 + 25 + 25 + 25
    assert set(bbq.items(shared / "data", categories="Age", ambiguous_answers=True)[0]) == set(items[0])


def compare(name: str, shared: Path, every: int) -> None:
    """Ours, in batches, against one sequence at a time and the authors' definitions."""
    plain = Plain(shared / "models" / name)
    model, tokenizer = load_policy(shared / "models" / name)
    items = bbq.items(shared / "data", categories=["Age", "Religion"], formats=["plain", "lettered"], orders="one")
    items = [item for n, item in enumerate(items) if (n // 2) % every == 0]
    fits = model.config.max_position_embeddings
    items = [item for item in items if max(len(plain.ids(item["prompt"] + a)) for a in item["answers"]) <= fits]
    assert len(items) > 20
    records = pd.DataFrame(bbq.score(PolicyScorer(model, tokenizer), items))
    rows: dict[tuple[str, str], list[tuple[str, int, int, int, int]]] = {}
    for item, record in zip(items, records.to_dict("records"), strict=True):
        first, whole = plain.answers(item["prompt"], item["answers"])
        assert largest_difference(record["logps_first"], first) < 1e-5
        assert largest_difference(record["logps_whole"], whole) / max(record["n_tokens"]) < 1e-5
        roles = item["roles"]
        condition = {"ambiguous": "ambig", "disambiguated": "disambig"}[item["condition"]]
        rows.setdefault((item["axis"], item["format"]), []).append(
            (condition, int(np.argmax(first)), item["label"], roles.index("stereotype"), roles.index("unknown"))
        )
    summary = bbq.summarise(records)
    for (category, form), mine in rows.items():
        theirs = authors_bbq.bias_scores(mine)
        ways = summary["by_category"][category]["ways"]
        for ours, key in (
            ("s_amb", "score_ambig"), ("s_dis", "score_disambig"), ("ambiguous_accuracy", "accuracy_ambig"),
            ("disambiguated_accuracy", "accuracy_disambig"),
        ):  # fmt: skip
            assert ways[ours]["by_format"][form] == pytest.approx(theirs[key], abs=1e-5, nan_ok=True)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_scores_equal_one_at_a_time_and_the_authors_definitions(name: str, shared: Path):
    compare(name, shared, 220)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_scores_of_many_equal_one_at_a_time_and_the_authors_definitions(name: str, shared: Path):
    compare(name, shared, 40)


def test_a_tiny_policy_is_scored_in_all_formats_and_orders(tiny_llama: Path, tmp_path: Path):
    model, tokenizer = load_policy(tiny_llama)
    ensure_chat_template(tokenizer)
    items = bbq.items(write(tmp_path, [row(0, "ambig", 2), row(1, "disambig", 1)]))
    assert len(items) == 2 * 4 * 3 == len({item["id"] for item in items})
    done: list[tuple[int, int]] = []
    records = pd.DataFrame(bbq.score(PolicyScorer(model, tokenizer), items, lambda *now: done.append(now)))
    assert done[-1] == (72, 72)
    summary = bbq.summarise(records)
    ways = summary["ways"]["margin_mean_nats"]
    assert set(ways["by_format"]) == {"plain", "listed", "lettered", "chat"}
    assert ways["n_ways"] == 12
    # plain does not list its options: the same number in every order
    assert len({ways["by_format_and_order"][f"plain/{order}"] for order in ("012", "120", "201")}) == 1
    assert ways["mean"] == pytest.approx(np.mean(list(ways["by_format"].values())))
    assert summary["margin_mean_nats"] == pytest.approx(records["margin_nats"].mean())


def test_records_of_question_benchmarks_are_written_and_read_again(tiny_llama: Path, tmp_path: Path):
    write(tmp_path / "data" / "bbq", [row(0, "ambig", 2), row(1, "disambig", 1)])
    lines = "1 [The nurse] met the cook because [{}] was early.\n"
    (tmp_path / "data" / "winobias").mkdir()
    for side, pronoun in (("pro", "she"), ("anti", "he")):
        for kind in ("type1", "type2"):
            (tmp_path / "data" / "winobias" / f"{side}_stereotyped_{kind}.txt.dev").write_text(lines.format(pronoun))
    out = evaluate(tiny_llama, ["bbq", "winobias"], tmp_path / "data", tmp_path / "out")
    records = load_records(out)
    assert records.groupby("benchmark").size().to_dict() == {"bbq": 24, "winobias": 2 + 4 * 4 * 2}
    bbq_rows = records[records["benchmark"] == "bbq"]
    summary = json.loads((out / "summary.json").read_text())["benchmarks"]
    assert summary["bbq"]["margin_mean_nats"] == pytest.approx(bbq_rows["margin_nats"].mean())
    assert summary["bbq"]["ways"]["margin_mean_nats"]["n_ways"] == 12
    again = bbq.summarise(bbq_rows)  # a pure function of the records
    assert again["margin_mean_nats"] == pytest.approx(summary["bbq"]["margin_mean_nats"])


def test_an_unknown_format_is_refused():
    question = {"id": "q", "context": "", "question": "who ?", "options": ["a", "b"], "roles": ["x", "y"], "lang": "en"}
    with pytest.raises(ConfigError, match="letterd"):
        asked(question, ["letterd"])
