"""Mixes of sources: their shares, their ids, and the refusal of a lesson that only ever says "cannot tell"."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from teachfair.data import SOURCES
from teachfair.data.mixing import check_mix, check_prompts, mix
from teachfair.data.pairs import PAIR_COLUMNS, checked, counts_of, pairs_dataset
from teachfair.data.prompts import prompts_dataset, prompts_of_pairs
from teachfair.errors import ConfigError, InputError


def pairs(kind, n, prefix="p", **counts):
    rows, read = checked(
        [{"prompt": f"{prefix} {i}?", "chosen": "a", "rejected": "b", "kind": kind, "id": f"i{i}"} for i in range(n)], "rows"
    )
    for name, value in counts.items():
        setattr(read, name, value)
    return pairs_dataset(rows, read)


def together(**kinds):
    return mix({kind: pairs(kind.replace("_", "-"), n, kind) for kind, n in kinds.items()})


def test_a_mix_that_only_says_cannot_tell_is_refused_and_says_why():
    alone = together(cant_tell_vs_stereotype=3, anti_vs_stereotype=5)
    with pytest.raises(ConfigError, match='"cannot tell" is the fair answer and in none is it the evidence') as caught:
        check_mix(alone)
    assert "cant-tell-vs-stereotype" in caught.value.where
    report = check_mix(alone, force=True)
    assert report["forced"] is True
    assert report["warnings"]
    json.dumps(report, allow_nan=False)  # a run record takes it as it is


@pytest.mark.parametrize("kind", ["evidence_vs_cant_tell", "evidence_vs_stereotype", "evidence_vs_anti"])
def test_a_mix_that_uses_the_evidence_too_is_taken(kind):
    report = check_mix(together(cant_tell_vs_anti=4, **{kind: 4}))
    assert (report["do_not_assume"], report["use_evidence"], report["share_of_evidence"]) == (4, 4, 0.5)


def test_a_mix_without_cannot_tell_is_not_judged():
    assert check_mix(together(anti_vs_stereotype=2, unspecified=2))["share_of_evidence"] is None


def test_lopsided_mixes_are_warned_of():
    few = check_mix(together(cant_tell_vs_anti=50, evidence_vs_cant_tell=2))["warnings"]
    assert "only 2 of 52 pairs use the evidence" in few[0]
    one_sided = check_mix(together(evidence_vs_stereotype=9, evidence_vs_anti=1))["warnings"]
    assert "choose the anti-stereotype instead of reading" in one_sided[0]
    no_contrast = check_mix(together(cant_tell_vs_anti=5, evidence_vs_anti=5, evidence_vs_stereotype=5))["warnings"]
    assert "overuse of it is not taught against" in no_contrast[0]
    assert check_mix(together(cant_tell_vs_anti=5, evidence_vs_cant_tell=5, evidence_vs_anti=5))["warnings"] == []


def test_pairs_without_a_kind_cannot_be_judged():
    with pytest.raises(InputError, match="no column kind"):
        check_mix(pairs("unspecified", 2).remove_columns("kind"))


def prompts(*rows):
    return prompts_dataset([{"prompt": f"{i} ?", **row} for i, row in enumerate(rows)], "prompts")


def test_prompts_that_only_ever_ask_where_nothing_is_known_are_refused_like_pairs(caplog):
    ambiguous = prompts(*[{"condition": "ambiguous"}] * 3)
    for asked, where in (
        (prompts_of_pairs(together(cant_tell_vs_anti=3)), "kind cant-tell-vs-anti"),
        (ambiguous, "condition ambiguous"),
    ):
        with pytest.raises(ConfigError, match='in 3 of 3 prompts "cannot tell" is the fair answer and in none') as caught:
            check_prompts(asked)
        assert where in caught.value.where
        assert "--force_mix" in caught.value.fix
    report = check_prompts(ambiguous, force=True)
    assert (report["forced"], report["conditions"], report["unknown"]) == (True, {"ambiguous": 3}, 0)
    json.dumps(report, allow_nan=False)
    both = check_prompts(prompts({"condition": "ambig"}, {"condition": "disambig"}, {"kind": "evidence-vs-anti"}))
    assert (both["do_not_assume"], both["use_evidence"]) == (1, 2)
    assert not check_prompts(prompts({"kind": "anti-vs-stereotype"}, {}))["warnings"], "whoever says something is believed"
    caplog.clear()
    silent = check_prompts(prompts({}, {"kind": "unspecified"}))
    assert silent["unknown"] == 2
    assert caplog.text.count("is unknown") == 1, "nothing is known, so nothing is refused; it is said once"


@pytest.mark.shared
def test_the_sources_that_a_refusal_names_lift_it(shared, tmp_path):
    def load(name, **options):
        return SOURCES[name].load(shared / "data" / name, **options)

    halves = {"cant-tell-vs-stereotype", "cant-tell-vs-anti"}
    alone = load("bbq", categories=["Age"], kinds=sorted(halves))
    with pytest.raises(ConfigError, match="in none is it the evidence") as caught:
        check_mix(alone)
    assert "bbq, both conditions" in caught.value.fix
    assert "winobias with form='questions', types=('type1',)" in caught.value.fix
    for cure in (load("bbq", categories=["Age"]), load("winobias", form="questions", types=("type1",))):
        mixed = mix({"alone": alone, "cure": cure})
        assert check_mix(mixed)["share_of_evidence"] > 0.1
        assert check_prompts(prompts_of_pairs(mixed))["share_of_evidence"] > 0.1
        mixed.to_parquet(str(tmp_path / "mix.parquet"))  # how a mix reaches a door
        again = SOURCES["preference_file"].load(tmp_path / "mix.parquet")
        assert check_mix(again)["kinds"] == check_mix(mixed)["kinds"]
    with pytest.raises(ConfigError, match="in none is it the evidence"):
        check_prompts(prompts_of_pairs(load("bbq_ambiguous_answers")))


def test_shares_decide_how_much_is_drawn_of_each_part_and_nothing_is_repeated():
    parts = {"a": pairs("anti-vs-stereotype", 30, "a"), "b": pairs("evidence-vs-anti", 100, "b")}
    mixed = mix(parts, {"a": 1, "b": 2})
    assert Counter(mixed["kind"]) == {"anti-vs-stereotype": 30, "evidence-vs-anti": 60}
    assert tuple(mixed.column_names) == PAIR_COLUMNS
    assert len(set(mixed["id"])) == 90, "both parts have an i0"
    assert counts_of(mixed)["mix"] == [
        {"part": "a", "n": 30, "of": 30, "share": 1 / 3}, {"part": "b", "n": 60, "of": 100, "share": 2 / 3},
    ]  # fmt: skip
    assert mixed.to_list() == mix(parts, {"a": 1, "b": 2}).to_list() != mix(parts, {"a": 1, "b": 2}, seed=1).to_list()
    for n in (1, 7, 10, 89):
        assert len(mix(parts, {"a": 0.31, "b": 0.69}, n=n)) == n
    assert len(mix(parts)) == 130


def test_a_mix_keeps_the_lists_of_excluded_ids_and_the_reasons_of_its_parts():
    told = {"file": "contested.txt", "sha256": "0" * 64, "ids": 3, "met": 2}
    one = pairs("unspecified", 5, "a", exclusions=[told], excluded=2, dropped={"odd": 1})
    other = pairs("unspecified", 5, "b", exclusions=[told], excluded=1, dropped={"odd": 2, "empty": 1})
    counts = counts_of(mix({"one": one, "other": other}))
    assert counts["exclusions"] == [told], "one list, named once"
    assert (counts["excluded"], counts["dropped"]) == (3, {"odd": 3, "empty": 1})


@pytest.mark.parametrize(
    ("shares", "n", "what"),
    [
        ({"a": 1}, None, "shares and parts differ: b"),
        ({"a": 1, "b": 0}, None, "a share of 0"),
        ({"a": 1, "b": float("nan")}, None, "a share of nan"),
        ({"a": 1, "b": 1}, 21, "a has 10 pairs"),
        ({"a": 1, "b": 1}, 0, "0 pairs"),
    ],
)
def test_shares_that_cannot_be_are_refused(shares, n, what):
    with pytest.raises(ConfigError, match=what):
        mix({"a": pairs("unspecified", 10, "a"), "b": pairs("unspecified", 20, "b")}, shares, n=n)
