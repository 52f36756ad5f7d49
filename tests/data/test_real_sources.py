"""The published files themselves: their counts, the drops with their reasons, and the traps that are in them."""

from __future__ import annotations

from collections import Counter

import pytest

from teachfair.data import SOURCES
from teachfair.data.pairs import counts_of
from teachfair.data.sources import bbq, crows_pairs_revised, hh_harmless, holistic_bias, jigsaw_identity_templates, winobias

pytestmark = pytest.mark.shared


def test_crows_pairs_has_its_counts_by_type(shared):
    pairs = SOURCES["crows_pairs"].load(shared / "data" / "crows_pairs")
    assert Counter(pairs["axis"]) == {
        "race": 516, "gender": 262, "socioeconomic": 172, "nationality": 159, "religion": 105, "age": 87,
        "sexual-orientation": 84, "physical-appearance": 63, "disability": 60,
    }  # fmt: skip
    assert len(pairs) == 1508
    assert len(set(pairs["cluster"])) == 1507, "one pair is in the file twice"


def test_crows_pairs_revised_is_aligned_and_its_two_french_defects_are_dropped(shared):
    pairs = SOURCES["crows_pairs_revised"].load(shared / "data" / "crows_pairs_multilingual")
    counts = counts_of(pairs)
    assert counts["records"] == 2 * 1463
    assert Counter(pairs["lang"]) == {"en": 1463, "fr": 1461}
    assert counts["dropped"] == {crows_pairs_revised.DEFECTS["fr"]["0129"]: 1}
    assert counts["dropped_equal"] == 1
    ids = {pair["id"] for pair in pairs.select_columns(["id"])}
    assert "crows_pairs_revised-0129" in ids
    assert not {"crows_pairs_revised-fr-0129", "crows_pairs_revised-fr-0379"} & ids
    assert len(set(pairs["cluster"])) == 1463


def test_stereoset_records_agree_with_the_pair_form_once_the_flipped_file_is_put_right(shared):
    records = SOURCES["stereoset"].load(shared / "data" / "stereoset")
    assert counts_of(records)["records"] == len(records) == 799 + 962 + 79 + 253
    assert counts_of(records)["corrected"] == {"exchanged labels put right (gender_test.json)": 253}
    assert Counter(records["axis"]) == {"race": 371 + 962, "profession": 333, "gender": 83 + 253, "religion": 12 + 79}
    assert all(records["unrelated"])

    def plain(pair, side):
        return pair[side][0]["content"].lower().strip(" .")

    pair_form = SOURCES["stereoset_pairs"].load(shared / "data" / "stereoset_pairs_phd", contexts=["intra"])
    prefers = {
        (plain(pair, "prompt"), frozenset((plain(pair, "chosen"), plain(pair, "rejected")))): plain(pair, "chosen")
        for pair in pair_form
    }
    found = Counter()
    for pair in records:
        theirs = prefers.get((plain(pair, "prompt"), frozenset((plain(pair, "chosen"), plain(pair, "rejected")))))
        found["absent" if theirs is None else "same" if theirs == plain(pair, "chosen") else "exchanged"] += 1
    assert found == {"same": 2093}
    assert set(records["cluster"]) <= set(pair_form["cluster"])


def test_winobias_says_how_many_pairs_it_dropped_and_why(shared):
    folder = shared / "data" / "winobias"
    pairs = SOURCES["winobias"].load(folder)
    counts = counts_of(pairs)
    assert counts["records"] == 8 * 396
    assert counts["dropped"] == {winobias.OTHER_WORDS: 17, winobias.DIFFERENT: 1, winobias.EXCHANGED: 1}
    assert len(pairs) == 4 * 396 - 19 == 1565
    dropped = {f"winobias-type2-test-{n}" for n in (382, 384)}
    assert not dropped & set(pairs["id"]), "two different sentences, and exchanged roles"
    questions = SOURCES["winobias"].load(folder, form="questions")
    assert Counter(questions["kind"]) == {"evidence-vs-anti": 1583, "evidence-vs-stereotype": 1583}
    assert counts_of(questions)["dropped"] == {winobias.NOT_TWO: 2}


@pytest.mark.parametrize(
    ("category", "records"), [("Age", 3680), ("Disability_status", 1556), ("Nationality", 3080), ("Religion", 1200)]
)
def test_bbq_makes_two_pairs_of_every_record(shared, category, records):
    pairs = SOURCES["bbq"].load(shared / "data" / "bbq", categories=[category])
    counts = counts_of(pairs)
    assert (counts["records"], len(pairs), counts["dropped"]) == (records, 2 * records, {})
    kinds = Counter(pairs["kind"])
    assert kinds["cant-tell-vs-stereotype"] == kinds["cant-tell-vs-anti"] == kinds["evidence-vs-cant-tell"] == records // 2
    assert kinds["evidence-vs-stereotype"] + kinds["evidence-vs-anti"] == records // 2
    assert abs(kinds["evidence-vs-stereotype"] - kinds["evidence-vs-anti"]) <= 10, "evidence agrees as often as it clashes"
    assert len(set(pairs["cluster"])) == 25
    assert not any(pair["chosen"][0]["content"].endswith(" ") for pair in pairs)


def test_the_ambiguous_bbq_records_give_cannot_tell_only(shared):
    pairs = SOURCES["bbq_ambiguous_answers"].load(shared / "data" / "bbq_ambiguous_answers")
    counts = counts_of(pairs)
    assert counts["records"] == 2836 + 3440
    assert counts["dropped"] == {bbq.UNRESOLVED: 16}, "eight records name two people of one gender"
    assert Counter(pairs["axis"]) == {"race": 2 * 3440, "gender": 2 * 2836 - 16}
    assert set(pairs["kind"]) == {"cant-tell-vs-stereotype", "cant-tell-vs-anti"}


def test_hh_harmless_has_its_rows(shared):
    pairs = SOURCES["hh_harmless"].load(shared / "data" / "hh_harmless", "test")
    counts = counts_of(pairs)
    assert (counts["records"], len(pairs)) == (2312, 2299)
    assert counts["dropped"] == {hh_harmless.SAME_SPEAKER: 9, hh_harmless.EMPTY_TURN: 4}
    assert all(len(pair["prompt"]) % 2 == 1 and pair["prompt"][-1]["role"] == "user" for pair in pairs)


def test_jigsaw_has_its_templates_half_of_them_toxic(shared):
    folder = shared / "data" / "jigsaw_identity_templates"
    texts = jigsaw_identity_templates.texts(folder)
    assert Counter(text["label"] for text in texts) == {"nontoxic": 38_282, "toxic": 38_282}
    assert sum(Counter(text["label"] for text in texts).values()) == 76_564
    pairs = jigsaw_identity_templates.load(folder, templates=["you_occupation", "verb_adj"])
    assert Counter(pairs["cluster"]) == {"jigsaw-you_occupation": 432, "jigsaw-verb_adj": 200}
    assert counts_of(pairs)["read"] == 38_282


@pytest.mark.parametrize(("version", "identities", "neutral"), [("1.1", 735, 388_206), ("1.0", 615, 322_038)])
def test_holistic_bias_has_its_descriptors_on_thirteen_axes(shared, version, identities, neutral):
    texts = holistic_bias.texts(shared / "data" / "holistic_bias", version=version, n=None)
    assert len(texts) == neutral
    assert len({text["axis"] for text in texts}) == 13
    assert len({text["identity"] for text in texts}) == identities
    assert not any("{" in text["text"] or "  " in text["text"] for text in texts)
