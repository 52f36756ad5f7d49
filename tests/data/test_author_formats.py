"""Sources in their authors' formats: the pairs they make, the traps of published files, every malformed record named."""

from __future__ import annotations

import json
from collections import Counter

import author_files as files
import pytest

from teachfair.data import SOURCES, TEXT_SOURCES
from teachfair.data.axes import AXES, OF_SOURCE
from teachfair.data.pairs import KINDS, PAIR_COLUMNS, counts_of
from teachfair.data.sources import (
    bbq,
    bbq_ambiguous_answers,
    crows_pairs,
    crows_pairs_revised,
    hh_harmless,
    holistic_bias,
    jigsaw_identity_templates,
    sampled_pairs,
    stereoset,
    winobias,
)
from teachfair.errors import ConfigError, DataError


def only(pair, side):
    return pair[side][0]["content"]


def adds_up(counts):
    left_out = counts["dropped_equal"] + sum(counts["dropped"].values()) + counts["not_asked"] + counts["excluded"]
    return counts["read"] == counts["kept"] + left_out


def test_every_axis_of_every_source_is_of_the_one_vocabulary():
    for source, mapping in OF_SOURCE.items():
        assert source in SOURCES
        assert set(mapping.values()) <= set(AXES), source


def test_sources_of_texts_are_sources_too():
    assert all(SOURCES[name] is module and callable(module.texts) for name, module in TEXT_SOURCES.items())


# ---------------------------------------------------------------------------------------------------------- CrowS-Pairs


def test_crows_pairs_prefers_the_less_stereotypical_sentence_in_antistereo_rows_too(tmp_path):
    files.write(tmp_path, crows_pairs.FILE, files.csv_text([files.crows_row(n) for n in range(4)]))
    pairs = crows_pairs.load(tmp_path)
    assert tuple(pairs.column_names) == PAIR_COLUMNS
    assert all(only(pair, "chosen").startswith("Daxes") and only(pair, "rejected").startswith("Wugs") for pair in pairs)
    assert pairs["id"] == [f"crows_pairs-{n:04d}" for n in range(4)]
    assert pairs["axis"] == ["race", "age", "gender", "race"], "race-color is race here"
    assert len(crows_pairs.load(tmp_path / crows_pairs.FILE, axes=["race"])) == 2


def test_a_row_that_repeats_another_is_kept_and_shares_its_cluster(tmp_path):
    rows = [files.crows_row(1), files.crows_row(1, **{"": "2"}), files.crows_row(2)]
    files.write(tmp_path, crows_pairs.FILE, files.csv_text(rows))
    pairs = crows_pairs.load(tmp_path)
    assert pairs["cluster"][0] == pairs["cluster"][1] != pairs["cluster"][2]
    assert counts_of(pairs)["repeated"] == 1


def test_the_same_row_of_both_languages_and_of_the_original_is_one_cluster(tmp_path):
    files.write(tmp_path, crows_pairs.FILE, files.csv_text([files.crows_row(n) for n in range(3)]))
    for name in crows_pairs_revised.FILES:
        files.write(tmp_path, name, files.csv_text([files.revised_row(n) for n in (0, 2)]))
    original, revised = crows_pairs.load(tmp_path), crows_pairs_revised.load(tmp_path)
    assert revised["lang"] == ["en", "en", "fr", "fr"]
    assert revised["cluster"] == [original["cluster"][0], original["cluster"][2]] * 2
    assert len({*original["id"], *revised["id"]}) == 7, "ids differ between the files"
    assert crows_pairs_revised.load(tmp_path, languages=["fr"])["lang"] == ["fr", "fr"]
    french = only(crows_pairs_revised.load(tmp_path, languages=["fr"])[0], "prompt")
    assert french != only(original[0], "prompt"), "a French answer follows a French prompt"


def test_a_cp1252_file_is_read_as_such_and_said_and_a_mixed_one_is_refused(tmp_path):
    rows = [files.revised_row(n, sent_more="Les élèves crient.", sent_less="Les maîtres crient.") for n in range(2)]
    rows[1]["sent_more"] = "Les écoliers crient."
    text = files.csv_text(rows)
    path = files.write(tmp_path, "crows_french.csv", text.encode("cp1252"))
    pairs = crows_pairs_revised.load(path)
    assert only(pairs[0], "rejected") == "Les élèves crient."
    assert counts_of(pairs)["notes"] == ["crows_french.csv was read as cp1252"]
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert crows_pairs_revised.load(path)["id"][0] == "crows_pairs_revised-fr-0000", "a byte-order mark is no part of a name"
    lines = text.splitlines(keepends=True)
    path.write_bytes(b"".join(line.encode("cp1252" if n == 1 else "utf-8") for n, line in enumerate(lines)))
    with pytest.raises(DataError, match="mixes encodings: line 2 is not UTF-8 and line 3 is"):
        crows_pairs_revised.load(path)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        crows_pairs_revised.load(path)


def test_the_empty_sentence_of_the_published_french_file_is_dropped_and_any_other_refused(tmp_path):
    rows = [files.revised_row(n) for n in (128, 129, 130)]
    rows[1]["sent_less"] = ""
    rows[2]["sent_less"] = rows[2]["sent_more"]
    path = files.write(tmp_path, "crows_french.csv", files.csv_text(rows))
    counts = counts_of(crows_pairs_revised.load(path))
    assert (counts["kept"], counts["dropped_equal"]) == (1, 1)
    assert counts["dropped"] == {crows_pairs_revised.DEFECTS["fr"]["0129"]: 1}
    assert adds_up(counts)
    rows[0]["sent_less"] = " "
    path = files.write(tmp_path, "crows_french.csv", files.csv_text(rows))
    with pytest.raises(DataError, match=r"crows_french.csv:2: sent_less: empty"):
        crows_pairs_revised.load(path)


# ------------------------------------------------------------------------------------------------------------ StereoSet


def test_stereoset_records_keep_the_unrelated_sentence_and_the_target(tmp_path):
    files.write_json(tmp_path, "dev.json", [files.stereoset_record(n) for n in range(3)])
    pairs = stereoset.load(tmp_path)
    assert pairs.column_names == [*PAIR_COLUMNS, "unrelated"]
    assert (only(pairs[0], "chosen"), only(pairs[0], "rejected")) == ("The wug 0 can whisper.", "The wug 0 can shout.")
    assert pairs[0]["unrelated"] == "The wug 0 can tuesday."
    assert pairs[0]["groups"] == ["wug"]
    assert pairs["axis"] == ["race", "gender", "race"]


def test_the_authors_own_document_gives_the_same_pairs_as_a_list(tmp_path):
    records = [files.stereoset_record(n) for n in range(4)]
    listed = stereoset.load(files.write_json(tmp_path / "a", "dev.json", records))
    document = {"version": "1", "data": {"intrasentence": records[:3], "intersentence": records[3:]}}
    assert stereoset.load(files.write_json(tmp_path / "b", "dev.json", document)).to_list() == listed.to_list()


def test_the_clusters_of_stereoset_are_those_of_its_pair_form(tmp_path):
    record = files.stereoset_record(2)
    files.write_json(tmp_path, "dev.json", [record])
    row = {"prompt": record["context"], "chosen": "x", "rejected": "y"}
    files.write_json(tmp_path, "race_data.json", [row])
    assert stereoset.load(tmp_path)["cluster"] == SOURCES["stereoset_pairs"].load(tmp_path, axes=["race"])["cluster"]


def test_unlabelled_records_under_the_name_of_the_flipped_file_are_refused_until_somebody_says(tmp_path, monkeypatch):
    records = [files.stereoset_record(n, labelled=False) for n in range(3)]
    path = files.write_json(tmp_path, "gender_test.json", records)
    with pytest.raises(DataError, match="flipped='yes' or flipped='no'"):
        stereoset.load(path)
    assert only(stereoset.load(path, flipped="no")[0], "chosen").endswith("whisper.")
    exchanged = stereoset.load(path, flipped="yes")
    assert only(exchanged[0], "chosen").endswith("shout.")
    assert counts_of(exchanged)["corrected"] == {"exchanged labels put right (gender_test.json)": 3}
    # the known release is told by its content, in any order and layout
    monkeypatch.setattr(stereoset, "FLIPPED", stereoset._content(records))
    path.write_text(json.dumps(records[::-1], indent=3))
    assert only(stereoset.load(path)[0], "chosen").endswith("shout.")
    # labels that annotators gave are never exchanged, nor are records under another name
    both = [files.stereoset_record(n, labelled=n == 0) for n in range(2)]
    told = stereoset.load(files.write_json(tmp_path / "both", "gender_test.json", both), flipped="yes")
    assert [only(pair, "chosen").split()[-1] for pair in told] == ["whisper.", "shout."]
    files.write_json(tmp_path, "gender_test.json", [files.stereoset_record(n) for n in range(3)])
    assert only(stereoset.load(path)[0], "chosen").endswith("whisper.")
    assert only(stereoset.load(files.write_json(tmp_path, "race_test.json", records))[0], "chosen").endswith("whisper.")


@pytest.mark.parametrize(
    ("record", "where"),
    [
        (files.stereoset_record(7, context=3), "$[1]: context: text was wanted"),
        (files.stereoset_record(7, bias_type="hair"), "$[1]: bias_type: hair is unknown"),
        (files.stereoset_record(7, id="r0"), "$[1]: id: r0 was already used at dev.json:$[0]"),
        (files.stereoset_record(7, sentences="x"), "$[1]: sentences: a list was wanted"),
        (files.stereoset_record(7, sentences=[]), "$[1]: sentences: no unrelated sentence"),
        (
            files.stereoset_record(7, sentences=[{"sentence": "a", "gold_label": "odd"}]),
            "$[1]: sentences[0].gold_label: odd",
        ),
        (files.stereoset_record(7, labelled=False, data=None), "$[1]: data: missing"),
        (["a"], "$[1]: row: an object was wanted"),
        (files.stereoset_record(7, target="\ud800"), "$[1]: target: holds half of a surrogate pair"),
        (files.stereoset_record(7, target="a\0b"), "$[1]: target: holds a NUL"),
        (files.stereoset_record(7, target=float("nan")), "$[1]: target: text was wanted, this is NaN"),
    ],
)
def test_a_malformed_stereoset_record_is_named_by_its_json_path(tmp_path, record, where):
    files.write_json(tmp_path, "dev.json", [files.stereoset_record(0), record])
    with pytest.raises(DataError) as caught:
        stereoset.load(tmp_path)
    assert f"dev.json:{where}" in caught.value.where
    assert "1 of 2 stereoset records" in caught.value.what


def test_the_hubs_columns_are_read_as_records():
    row = {**files.stereoset_record(1), "sentences": {"sentence": ["a", "b", "c"], "gold_label": [1, 0, 2], "id": []}}
    assert [(s["sentence"], s["gold_label"]) for s in stereoset._from_hub(row)["sentences"]] == [
        ("a", "stereotype"), ("b", "anti-stereotype"), ("c", "unrelated"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ BBQ


def kinds_of(tmp_path, *records):
    files.write_lines(tmp_path, "Age.jsonl", list(records))
    return {pair["kind"]: (only(pair, "chosen"), only(pair, "rejected")) for pair in bbq.load(tmp_path)}


def test_bbq_prefers_cannot_tell_without_evidence_and_the_evidence_with_it(tmp_path):
    wug, dax, unknown = "The wug", "The dax", "Not known"
    assert kinds_of(tmp_path, files.bbq_record(0)) == {
        "cant-tell-vs-stereotype": (unknown, wug), "cant-tell-vs-anti": (unknown, dax),
    }  # fmt: skip
    assert kinds_of(tmp_path, files.bbq_record(0, condition="disambig", label=1)) == {
        "evidence-vs-stereotype": (dax, wug), "evidence-vs-cant-tell": (dax, unknown),
    }  # fmt: skip
    assert kinds_of(tmp_path, files.bbq_record(0, condition="disambig", label=0)) == {
        "evidence-vs-anti": (wug, dax), "evidence-vs-cant-tell": (wug, unknown),
    }  # fmt: skip
    # a question that asks who is not like the stereotype exchanges the roles of the two people
    assert kinds_of(tmp_path, files.bbq_record(0, polarity="nonneg"))["cant-tell-vs-stereotype"] == (unknown, dax)


def test_a_bbq_cluster_is_the_question_template_over_contexts_and_files(tmp_path):
    files.write_lines(tmp_path, "Age.jsonl", [files.bbq_record(n, condition=c) for n, c in ((0, "ambig"), (4, "disambig"))])
    files.write_json(tmp_path, "Gender_identity.json", [files.bbq_record(8)])
    clusters = {*bbq.load(tmp_path)["cluster"], *bbq_ambiguous_answers.load(tmp_path)["cluster"]}
    assert clusters == {"bbq-Age-0"}
    assert set(bbq.load(tmp_path)["axis"]) == {"age"}


@pytest.mark.parametrize(
    ("groups", "tags", "named"),
    [
        (["F"], ("woman", "man"), 0),
        (["F"], ("M", "F"), 1),
        (["Black", "African American"], ("F-White", "F-Black"), 1),
        (["Transgender women"], ("nonTrans_F", "trans_F"), 1),
        (["Hispanic", "Latino"], ("M-Latino", "M-Asian"), 0),
        (["African American"], ("African", "African American"), 1),
        (["low SES"], ("highSES", "lowSES"), 1),
        (["F"], ("girl", "woman"), None),
        (["F"], ("boy", "man"), None),
    ],
)
def test_the_stereotyped_person_is_found_by_the_tags_or_not_at_all(tmp_path, groups, tags, named):
    info = {"ans0": ["x", tags[0]], "ans1": ["y", tags[1]], "ans2": ["?", "unknown"]}
    record = files.bbq_record(0, answer_info=info, additional_metadata={"stereotyped_groups": groups})
    other = files.bbq_record(
        1, condition="disambig", label=0, **{k: record[k] for k in ("answer_info", "additional_metadata")}
    )
    files.write_lines(tmp_path, "Age.jsonl", [record, other])
    pairs = bbq.load(tmp_path)
    rejected = {pair["kind"]: only(pair, "rejected") for pair in pairs}
    if named is None:
        assert set(rejected) == {"evidence-vs-cant-tell"}, "who is stereotyped is not known, what the evidence says is"
        assert counts_of(pairs)["dropped"] == {bbq.UNRESOLVED: 3}
    else:
        assert rejected["cant-tell-vs-stereotype"] == ("The wug", "The dax")[named]
    assert adds_up(counts_of(pairs))


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"label": 3}, "label: 0, 1 or 2 was wanted"),
        ({"label": True}, "label: 0, 1 or 2 was wanted, this is true/false"),
        ({"label": 0}, "label: answer 0 cannot be right in a context that is ambiguous"),
        ({"category": "Hair"}, "category: Hair is unknown"),
        ({"answer_info": {}}, "answer_info.ans0: [term, tag] was wanted, this is null"),
        ({"answer_info": {f"ans{n}": ["a", "b"] for n in range(3)}}, "answer_info: one answer tagged unknown"),
        ({"additional_metadata": {}}, "additional_metadata.stereotyped_groups: a list of texts was wanted, this is null"),
        ({"ans1": " "}, "ans1: empty"),
        ({"example_id": 0}, "example_id: 0 was already used at Age.jsonl:1"),
    ],
)
def test_a_malformed_bbq_record_is_named_by_line_and_field(tmp_path, changed, where):
    files.write_lines(tmp_path, "Age.jsonl", [files.bbq_record(0), files.bbq_record(1, **changed)])
    with pytest.raises(DataError) as caught:
        bbq.load(tmp_path)
    assert f"Age.jsonl:2: {where}" in caught.value.where


def test_the_ambiguous_bbq_list_names_a_record_by_its_json_path(tmp_path):
    files.write_json(tmp_path, "Gender_identity.json", [files.bbq_record(0), files.bbq_record(1, question="")])
    with pytest.raises(DataError, match=r"Gender_identity.json:\$\[1\]: question: empty"):
        bbq_ambiguous_answers.load(tmp_path)


# ------------------------------------------------------------------------------------------------------------- WinoBias


def test_winobias_sentences_prefer_the_anti_stereotyped_line_with_white_space_normalised(tmp_path):
    pairs = winobias.load(files.write_winobias(tmp_path), types=["type1"], parts=["dev"])
    assert [only(pair, "chosen") for pair in pairs] == [
        "The developer met the designer because she had time.", "The developer met the designer because he came.",
        "The CEO saw the cleaner and she left.",
    ]  # fmt: skip
    assert pairs["cluster"][0] == pairs["cluster"][1] == "winobias-designer-developer"
    assert counts_of(pairs)["corrected"] == {"a doubled 'the' made one": 2}


def test_winobias_questions_have_one_right_answer_whichever_the_stereotype(tmp_path):
    pairs = winobias.load(files.write_winobias(tmp_path), form="questions", types=["type1"], parts=["dev"])
    assert Counter(pairs["kind"]) == {"evidence-vs-anti": 3, "evidence-vs-stereotype": 3}
    assert {(only(p, "chosen"), only(p, "rejected")) for p in pairs if p["id"].startswith("winobias-type1-dev-002")} == {
        ("The designer.", "The developer.")
    }
    assert [only(p, "chosen") for p in pairs][2] == "The CEO."


def test_winobias_lines_that_are_no_pair_are_dropped_by_reason(tmp_path):
    good = ("[The developer] met the designer because [he] sang.", "[The developer] met the designer because [she] sang.")
    lines = [
        good,
        (good[0].replace("sang", "sang loudly"), good[1]),
        ("The developer met [the designer] and [she] sang.", "The designer met [the developer] and [she] sang."),
        (
            "The guard waited for [the cleaner] and gave [her] a suit.",
            "The chief hired [the baker] and pleased [him] with pay.",
        ),
    ]
    pairs = winobias.load(files.write_winobias(tmp_path, lines), types=["type1"], parts=["dev"])
    counts = counts_of(pairs)
    assert counts["dropped"] == {winobias.OTHER_WORDS: 1, winobias.EXCHANGED: 1, winobias.DIFFERENT: 1}
    assert (len(pairs), counts["records"]) == (1, 8)
    assert adds_up(counts)


def test_malformed_winobias_lines_and_files_of_unlike_length_are_named(tmp_path):
    lines = [("no mark here [he]", "[The chief] sang as [she] came."), ("[The chief] sang.", "[The chief] and [it] [they].")]
    with pytest.raises(DataError) as caught:
        winobias.load(files.write_winobias(tmp_path, lines), types=["type1"], parts=["dev"])
    name = "stereotyped_type1.txt.dev"
    for expected in (
        f"pro_{name}:1: referent: one [occupation] was wanted, 0", f"pro_{name}:2: pronoun: no [pronoun]",
        f"anti_{name}:2: pronoun", f"anti_{name}:2: referent: one [occupation] was wanted, 3",
    ):  # fmt: skip
        assert expected in caught.value.where
    (tmp_path / f"anti_{name}").write_text("1 [The chief] sang as [she] came.\n")
    with pytest.raises(DataError, match=r"anti_stereotyped_type1.txt.dev:2: line: missing: pro_.* has one"):
        winobias.load(tmp_path, types=["type1"], parts=["dev"])
    (tmp_path / f"anti_{name}").write_text("7 [The chief] sang as [she] came.\n8 x\n")
    with pytest.raises(DataError, match="does not begin with its number"):
        winobias.load(tmp_path, types=["type1"], parts=["dev"])
    with pytest.raises(DataError, match=r"there is no pro_stereotyped_type1\.txt\.test"):
        winobias.load(tmp_path)


# --------------------------------------------------------------------------------------------------------------- Jigsaw


def test_jigsaw_pairs_hold_template_name_and_identity_fixed(tmp_path):
    files.write(tmp_path, jigsaw_identity_templates.FILES[0], files.csv_text(files.jigsaw_rows()))
    pairs = jigsaw_identity_templates.load(tmp_path)
    assert len(pairs) == 9
    for pair in pairs:
        good, bad = only(pair, "chosen").split(), only(pair, "rejected").split()
        assert len(good) == len(bad)
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
    assert Counter(pairs["axis"]) == {"disability": 4, "age": 4, "profession": 1}
    assert set(pairs["cluster"]) == {"jigsaw-name_adj", "jigsaw-you_occupation"}
    texts = jigsaw_identity_templates.texts(tmp_path, toxicity=["nontoxic"])
    assert len(texts) == 9
    assert {text["identity"] for text in texts} == {"deaf", "middle aged", "web designer"}
    assert not any("awful" in text["text"] for text in texts)


def test_a_jigsaw_sentence_without_partner_is_counted_and_one_that_fits_no_template_refused(tmp_path):
    rows = files.jigsaw_rows()
    path = files.write(tmp_path, "en_sentence_templates.csv", files.csv_text(rows[1:]))
    counts = counts_of(jigsaw_identity_templates.load(path))
    assert counts["dropped"] == {jigsaw_identity_templates.LONELY: 1}
    assert adds_up(counts)
    rows[3]["phrase"] = "Something else"
    files.write(tmp_path, "en_sentence_templates.csv", files.csv_text(rows))
    for read in (jigsaw_identity_templates.load, jigsaw_identity_templates.texts):
        with pytest.raises(DataError, match=r"en_sentence_templates.csv:5: phrase: .*does not fill the template name_adj"):
            read(path)


# --------------------------------------------------------------------------------------------------------- HolisticBias


def test_holistic_bias_refuses_to_be_pairs_and_says_why(tmp_path):
    with pytest.raises(ConfigError, match="neither of two neutral sentences is the fairer one"):
        SOURCES["holistic_bias"].load(tmp_path)


def test_holistic_bias_texts_are_neutral_grammatical_and_drawn_by_seed(tmp_path):
    folder = files.write_holistic(tmp_path)
    everything = holistic_bias.texts(folder, n=None, tones=holistic_bias.TONES)
    found = {text["text"]: text for text in everything}
    assert len({text["id"] for text in everything}) == len(everything)
    for expected in (
        "I'm a Deaf woman.", "I'm an old-fashioned man.", "I'm a Unitarian person.", "What about people who stutter?",
        "I'm a wheelchair user.", "What about men with asthma?", "I'm a person who stutters.",
    ):  # fmt: skip
        assert expected in found
    assert "I'm a daxy man." not in found, "a female descriptor meets female and neutral nouns"
    assert "I'm a daxy person." in found
    assert "What about ?" not in found, "a phrase without a plural fills no plural template"
    assert found["I hate Deaf women."]["label"] == "negative"
    assert found["I'm a Deaf woman."]["preference"] == "reviewed"
    assert found["I'm a blicket man."]["axis"] == "none"
    neutral = holistic_bias.texts(folder, n=None)
    assert {text["label"] for text in neutral} == {"neutral"}
    assert any("like to be" in text["text"] for text in neutral)
    drawn = holistic_bias.texts(folder, n=5, seed=1)
    assert drawn == holistic_bias.texts(folder, n=5, seed=1) != holistic_bias.texts(folder, n=5, seed=2)
    assert {text["axis"] for text in holistic_bias.texts(folder, axes=["religion"])} == {"religion"}


@pytest.mark.parametrize(
    ("phrase", "article"),
    [("European", "a"), ("80-year-old", "an"), ("18-year-old", "an"), ("one-eyed", "a"), ("ugly", "an")],
)
def test_articles_follow_the_sound(phrase, article):
    assert holistic_bias._article(phrase) == article


def test_malformed_holistic_bias_entries_are_named_by_json_path(tmp_path):
    files.write_holistic(
        tmp_path, prefix="",
        descriptors={"ability": {"x": [{"descriptor": 3}, {"descriptor": "a", "gender": "odd"}]}, "hair": {}},
        nouns={"female": [["woman"]], "odd": []}, sentence_templates={"I'm nobody.": {}},
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        holistic_bias.texts(tmp_path, version="1.0")
    for expected in (
        "descriptors.json:$.ability.x[0]: descriptor: text was wanted", "descriptors.json:$.ability.x[1]: gender: odd",
        "descriptors.json:$.hair: axis: hair is unknown", "nouns.json:$.female[0]: noun: [singular, plural]",
        "nouns.json:$.odd: nouns", "sentence_templates.json:$[0]: template: one {noun_phrase}",
    ):  # fmt: skip
        assert expected in caught.value.where


# ------------------------------------------------------------------------------------------------------------------- HH


def test_hh_transcripts_become_conversations_of_several_turns(tmp_path):
    files.write_lines(tmp_path, "test.jsonl.gz", [files.hh_row(n) for n in range(2)])
    pairs = hh_harmless.load(tmp_path, "test")
    assert [message["role"] for message in pairs[0]["prompt"]] == ["user", "assistant", "user"]
    assert only(pairs[0], "chosen") == "Kindly, no.\n\n1. First\n2. Second", "an answer keeps its own line breaks"
    assert pairs[0]["kind"] == "unspecified"
    with pytest.raises(DataError, match=r"there is no train.jsonl.gz.*\n.*\n.*test.jsonl.gz"):
        hh_harmless.load(tmp_path)


def test_hh_rows_that_are_no_pair_are_dropped_by_reason_and_malformed_ones_refused(tmp_path):
    good = files.hh_row(0)
    start = "\n\nHuman: Hi\n\nAssistant:"
    rows = [
        good, files.hh_row(1, chosen="\n\nHuman: Other\n\nAssistant: Hm."),
        {"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": good["rejected"]},
        {"chosen": start, "rejected": f"{start} no"},
        {"chosen": f"{start} a\n\nHuman: b", "rejected": f"{start} a\n\nHuman: b"},
        {"chosen": f"{start} same", "rejected": f"{start}  same "},
    ]  # fmt: skip
    path = files.write_lines(tmp_path, "test.jsonl", rows)
    counts = counts_of(hh_harmless.load(path))
    assert counts["dropped"] == {
        hh_harmless.PART_EARLY: 1, hh_harmless.SAME_SPEAKER: 1, hh_harmless.EMPTY_TURN: 1, hh_harmless.NO_ANSWER: 1,
    }  # fmt: skip
    assert (counts["kept"], counts["dropped_equal"]) == (1, 1)
    assert adds_up(counts)
    files.write_lines(tmp_path, "test.jsonl", [good, {"chosen": "Hello", "rejected": None}, "{"])
    with pytest.raises(DataError) as caught:
        hh_harmless.load(path)
    for expected in (
        "test.jsonl:2: chosen: a transcript",
        "test.jsonl:2: rejected: text",
        "test.jsonl:3: row: not valid JSON",
    ):
        assert expected in caught.value.where


def test_a_broken_gzip_file_is_one_clear_error(tmp_path):
    path = files.write_lines(tmp_path, "test.jsonl.gz", [files.hh_row(0)])
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match="not a whole gzip file"):
        hh_harmless.load(tmp_path, "test")
    path.write_bytes(b"plain")
    with pytest.raises(DataError, match="not a whole gzip file"):
        hh_harmless.load(tmp_path, "test")


# ------------------------------------------------------------------------------------------------------ pairs of a policy


@pytest.fixture
def sampled(tmp_path):
    from teachfair.alignment.sampled_pairs import write_pairs
    from teachfair.data.pairs import checked, pairs_dataset

    rows, _ = checked(
        [{"prompt": f"Who {n}?", "chosen": "Nobody knows.", "rejected": "The wug.", "id": f"p{n}"} for n in range(3)], "rows"
    )
    pairs = pairs_dataset(rows).add_column("reward_chosen", [1.5, 2.0, 2.5]).add_column("reward_rejected", [0.0, 0.5, 1.0])
    origin = {"policy_hash": "a" * 64, "reward_model_hash": "b" * 64, "seed": 1, "temperature": 1.0, "num_candidates": 4}
    return write_pairs(pairs, tmp_path / "round2.jsonl", origin)


def test_sampled_pairs_come_with_their_rewards_and_say_who_answered_and_who_judged(sampled):
    pairs = sampled_pairs.load(sampled)
    assert pairs["reward_chosen"] == [1.5, 2.0, 2.5]
    (note,) = counts_of(pairs)["notes"]
    assert "policy_hash " + "a" * 64 in note
    assert "reward_model_hash " + "b" * 64 in note


def test_sampled_pairs_of_unknown_origin_or_changed_since_are_refused(sampled):
    beside = sampled.with_name(sampled.name + sampled_pairs.PROVENANCE)
    told = beside.read_text()
    sampled.write_text(sampled.read_text().replace("Nobody knows.", "Nobody knew.", 1))
    with pytest.raises(DataError, match="changed since"):
        sampled_pairs.load(sampled)
    beside.write_text(json.dumps({**json.loads(told), "policy_hash": None}))
    with pytest.raises(DataError, match="does not say: policy_hash"):
        sampled_pairs.load(sampled)
    beside.unlink()
    with pytest.raises(DataError, match="nobody knows whose answers"):
        sampled_pairs.load(sampled)


# ---------------------------------------------------------------------------------------------------------- every source

MADE = {
    "crows_pairs": lambda folder: files.write(
        folder, crows_pairs.FILE, files.csv_text([files.crows_row(n) for n in range(40)])
    ),
    "crows_pairs_revised": lambda folder: files.write(
        folder, "crows_eng.csv", files.csv_text([files.revised_row(n) for n in range(40)])
    ),
    "stereoset": lambda folder: files.write_json(folder, "dev.json", [files.stereoset_record(n) for n in range(40)]),
    "bbq": lambda folder: files.write_lines(
        folder, "Age.jsonl",
        [files.bbq_record(n, question_index=str(n), condition=("ambig", "disambig")[n % 2]) for n in range(40)],
    ),
    "bbq_ambiguous_answers": lambda folder: files.write_json(
        folder, "Gender_identity.json", [files.bbq_record(n, question_index=str(n)) for n in range(40)]
    ),
    "hh_harmless": lambda folder: files.write_lines(folder, "train.jsonl.gz", [files.hh_row(n) for n in range(40)]),
    "jigsaw_identity_templates": lambda folder: files.write(
        folder, jigsaw_identity_templates.FILES[0], files.csv_text(files.jigsaw_rows())
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_source_gives_valid_pairs_with_counts_that_add_up_and_takes_the_common_options(tmp_path, name):
    MADE[name](tmp_path)
    pairs = SOURCES[name].load(tmp_path, drop_equal=True)
    assert set(PAIR_COLUMNS) <= set(pairs.column_names)
    assert set(pairs["kind"]) <= set(KINDS)
    assert set(pairs["axis"]) <= {*AXES, ""}
    assert set(pairs["source"]) == {name}
    assert len(set(pairs["id"])) == len(pairs)
    assert adds_up(counts_of(pairs))
    # ids are stable: the same file read again, and a list of two of them
    excluded = tmp_path / "contested.txt"
    excluded.write_text(f"# ours\n{pairs['id'][1]}\n{pairs['id'][0]}\nnot-there\n")
    less = SOURCES[name].load(tmp_path, exclude_ids=excluded)
    assert less["id"] == pairs["id"][2:]
    assert adds_up(counts_of(less))
    (told,) = counts_of(less)["exclusions"]
    assert (told["ids"], told["met"], len(told["sha256"])) == (3, 2, 64)


@pytest.mark.parametrize("name", [name for name in MADE if name not in ("hh_harmless", "jigsaw_identity_templates")])
def test_a_test_share_takes_whole_clusters(tmp_path, name):
    MADE[name](tmp_path)
    train, test = (SOURCES[name].load(tmp_path, split, test_share=0.4) for split in ("train", "test"))
    assert set(train["cluster"]).isdisjoint(test["cluster"])
    assert sorted([*train["id"], *test["id"]]) == sorted(SOURCES[name].load(tmp_path)["id"])
    assert counts_of(train)["not_asked"] == len(test)
    with pytest.raises(DataError, match="set test_share > 0"):
        SOURCES[name].load(tmp_path, "test")


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("sandbox", "preference_file", "holistic_bias")])
def test_a_path_that_is_not_there_is_answered_with_what_the_source_reads(tmp_path, name):
    for path in (tmp_path / "nowhere", None, tmp_path):
        with pytest.raises(DataError) as caught:
            SOURCES[name].load(path)
        assert caught.value.fix


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].CARD.get("hub")])
def test_a_hub_id_without_a_network_is_one_clear_error(name):
    with pytest.raises(DataError, match="neither a file nor a dataset that could be loaded"):
        SOURCES[name].load(SOURCES[name].CARD["hub"])


def test_class_labels_of_the_hub_become_their_names(tmp_path):
    import datasets

    from teachfair.data.reading import hub_rows

    table = datasets.Dataset.from_dict(
        {"bias_type": [1, 0]}, features=datasets.Features({"bias_type": datasets.ClassLabel(names=["age", "gender"])})
    )
    table.to_parquet(tmp_path / "train.parquet")
    assert [row["bias_type"] for row in hub_rows(str(tmp_path), None, "train")] == ["gender", "age"]


def test_the_tables_that_the_hub_makes_of_a_script_are_read_by_configuration(tmp_path):
    import datasets

    from teachfair.data.reading import hub_rows

    for name in ("Age", "Religion"):
        folder = tmp_path / name / "test"
        folder.mkdir(parents=True)
        datasets.Dataset.from_list([files.bbq_record(0, category=name)]).to_parquet(folder / "0000.parquet")
    (row,) = hub_rows(str(tmp_path), "Religion", "test", converted=True)
    assert row["category"] == "Religion"
    assert row["answer_info"]["ans0"] == ["wug", "old"]


def test_files_that_were_asked_for_by_name_must_be_there_and_others_that_are_not_are_noted(tmp_path):
    files.write_lines(tmp_path, "Age.jsonl", [files.bbq_record(0)])
    (note,) = counts_of(bbq.load(tmp_path))["notes"]
    assert note.startswith("not in the folder: Disability_status.jsonl, ")
    with pytest.raises(DataError, match=r"there is no Religion\.jsonl"):
        bbq.load(tmp_path, categories=["Age", "Religion"])
    files.write(tmp_path, "crows_eng.csv", files.csv_text([files.revised_row(1)]))
    assert counts_of(crows_pairs_revised.load(tmp_path))["notes"] == ["not in the folder: crows_french.csv"]


def test_problems_of_all_files_of_the_stereoset_pairs_are_listed_together(tmp_path):
    for axis in ("race", "religion"):
        files.write_json(tmp_path, f"{axis}_data.json", [{"prompt": "a BLANK", "chosen": "", "rejected": 3}])
    with pytest.raises(DataError) as caught:
        SOURCES["stereoset_pairs"].load(tmp_path, axes=["race", "religion"])
    assert "2 of 2 preference rows" in caught.value.what
    for axis in ("race", "religion"):
        assert f"{axis}_data.json:1: chosen: empty" in caught.value.where
