"""Files that hypothesis makes: no malformed record is passed over in silence, and nothing but a TeachfairError comes out."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import author_files as files
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teachfair.data import SOURCES
from teachfair.data.excluding import read_exclusion
from teachfair.data.pairs import PAIR_COLUMNS, counts_of
from teachfair.data.sources import crows_pairs, holistic_bias, jigsaw_identity_templates, winobias
from teachfair.errors import TeachfairError

MADE = 0  # files that this module has made; the last test counts them


class Family(NamedTuple):
    """How a format is made: ``make(n)`` valid records, ``write(folder, records)``, ``place(i)`` as a message names record i,
    and the fields that a record must hold."""

    source: str
    make: Callable[[int], list[Any]]
    write: Callable[[Path, list[Any]], Path]
    place: Callable[[int], str]
    fields: tuple[str, ...]
    values: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012


MISSING = object()
TEXTS = ("", "  ", "a\0b")
ANYTHING = (*TEXTS, None, 3.5, True, float("nan"), [], {}, "\ud800", MISSING)


def hh_rows(n: int) -> list[Any]:
    return [files.hh_row(i) for i in range(n)]


def winobias_write(folder: Path, lines: list[Any]) -> Path:
    files.write(folder, "pro_stereotyped_type1.txt.dev", "".join(f"{line['text']}\n" for line in lines))
    anti = [f"{i} [The chief] number{i} sang as [she] came.\n" for i in range(1, len(lines) + 1)]
    files.write(folder, "anti_stereotyped_type1.txt.dev", "".join(anti))
    return folder


FAMILIES = {
    "csv": Family(
        "crows_pairs", lambda n: [files.crows_row(i) for i in range(n)],
        lambda folder, rows: files.write(folder, crows_pairs.FILE, files.csv_text(rows)),
        lambda i: f"{crows_pairs.FILE}:{i + 2}: ", crows_pairs.COLUMNS, TEXTS,
    ),
    "csv-fr": Family(
        "crows_pairs_revised", lambda n: [files.revised_row(i) for i in range(n)],
        lambda folder, rows: files.write(folder, "crows_french.csv", files.csv_text(rows)),
        lambda i: f"crows_french.csv:{i + 2}: ", ("id", *crows_pairs.COLUMNS), (*TEXTS, "1"),
    ),
    "jsonl": Family(
        "bbq", lambda n: [files.bbq_record(i, condition=("ambig", "disambig")[i % 2]) for i in range(n)],
        lambda folder, rows: files.write_lines(folder, "Age.jsonl", rows), lambda i: f"Age.jsonl:{i + 1}: ",
        (
            "example_id", "question_index", "question_polarity", "context_condition", "category", "answer_info",
            "additional_metadata", "context", "question", "ans0", "ans1", "ans2", "label",
        ), ANYTHING,
    ),
    "json": Family(
        "stereoset", lambda n: [files.stereoset_record(i, labelled=i % 2 == 0) for i in range(n)],
        lambda folder, rows: files.write_json(folder, "dev.json", rows), lambda i: f"dev.json:$[{i}]: ",
        ("id", "target", "bias_type", "context"), ANYTHING,
    ),
    "json-list": Family(
        "bbq_ambiguous_answers", lambda n: [files.bbq_record(i) for i in range(n)],
        lambda folder, rows: files.write_json(folder, "Gender_identity.json", rows),
        lambda i: f"Gender_identity.json:$[{i}]: ", ("example_id", "context", "question", "ans1", "label"), ANYTHING,
    ),
    "jsonl.gz": Family(
        "hh_harmless", hh_rows, lambda folder, rows: files.write_lines(folder, "train.jsonl.gz", rows),
        lambda i: f"train.jsonl.gz:{i + 1}: ", ("chosen", "rejected"), (*ANYTHING, "hello"),
    ),
    "templates": Family(
        "jigsaw_identity_templates", lambda n: (files.jigsaw_rows() * 9)[:n],
        lambda folder, rows: files.write(folder, jigsaw_identity_templates.FILES[0], files.csv_text(rows)),
        lambda i: f"{jigsaw_identity_templates.FILES[0]}:{i + 2}: ", jigsaw_identity_templates.COLUMNS, TEXTS,
    ),
    "lines": Family(
        "winobias", lambda n: [{"text": f"{i} [The chief] number{i} sang as [he] came."} for i in range(1, n + 1)],
        winobias_write, lambda i: f"pro_stereotyped_type1.txt.dev:{i + 1}: ", ("text",),
        ("", "no number", "1 [chief] [he]", "a\0b", "99999999 [The chief] and [he]"),
        {"types": ["type1"], "parts": ["dev"]},
    ),
}  # fmt: skip

ROOT = tempfile.TemporaryDirectory()  # hypothesis runs many examples in one test: a folder for each


def folder_of_its_own() -> Path:
    global MADE
    MADE += 1
    return Path(tempfile.mkdtemp(dir=ROOT.name))


def check_pairs(pairs: Any) -> None:
    counts = counts_of(pairs)
    left_out = counts["dropped_equal"] + sum(counts["dropped"].values()) + counts["not_asked"] + counts["excluded"]
    assert counts["read"] == counts["kept"] + left_out
    assert counts["kept"] == len(pairs) == len(set(pairs["id"])) > 0
    assert set(PAIR_COLUMNS) <= set(pairs.column_names)
    for pair in pairs:
        assert all(message["content"].strip() for side in ("prompt", "chosen", "rejected") for message in pair[side])


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_every_malformed_record_is_named_and_no_other(name, data):
    family = FAMILIES[name]
    records = family.make(data.draw(st.integers(2, 9), label="records"))
    hurt = data.draw(
        st.dictionaries(st.integers(0, len(records) - 1), st.sampled_from(family.fields), max_size=4), label="hurt"
    )
    for number, field in hurt.items():
        value = data.draw(st.sampled_from(family.values), label=f"value of {number}")
        records[number] = copy.deepcopy(records[number])
        if value is MISSING:
            del records[number][field]
        else:
            records[number][field] = value
    if name == "csv-fr":  # the value "1" is only wrong as an id, and where another row has it
        hurt = {i: f for i, f in hurt.items() if records[i][f] != "1" or f in ("stereo_antistereo", "bias_type")}
        ids = [row["id"] for row in records]
        hurt |= {i: "id" for i in range(len(ids)) if ids[i] in ids[:i]}
    if name == "lines":
        hurt = {i: f for i, f in hurt.items() if records[i]["text"] != "1 [chief] [he]" or i != 0}
    folder = folder_of_its_own()
    path = family.write(folder, records)
    told = None
    try:
        pairs = SOURCES[family.source].load(path if path.is_dir() else folder, limit_errors=1000, **family.options)
    except TeachfairError as error:
        told = error
    if told is None:
        assert not hurt
        check_pairs(pairs)
    elif "no pairs are left" in told.what:
        assert not hurt
    elif "cannot be used" in told.what:
        named = {number for number in range(len(records)) if family.place(number) in told.where}
        assert named == set(hurt)
        assert told.what.startswith(f"{len(hurt)} of ")
        str(told).encode("utf-8")
    else:
        assert name == "lines"
        assert len(hurt) == len(records), "all lines are empty: told of the whole file"


CONTENT = st.one_of(
    st.binary(max_size=120),
    st.text(alphabet='[]{}",:\\é\n\0 01abchosenrejtd', max_size=120).map(str.encode),
    st.sampled_from(
        [b"\xef\xbb\xbf", b"\xff\xfe[\0]\0", b"[" * 60_000, b'{"a":' * 3000, b"\x1f\x8b\x08", b"[1e999, NaN]", b"{}"]
    ),
)
NAMES = {
    "crows_pairs": crows_pairs.FILE, "crows_pairs_revised": "crows_french.csv", "bbq": "Age.jsonl", "stereoset": "dev.json",
    "bbq_ambiguous_answers": "Gender_identity.json", "hh_harmless": "train.jsonl",
    "jigsaw_identity_templates": jigsaw_identity_templates.FILES[1], "sampled_pairs": "round2.jsonl",
    "stereoset_pairs": "race_data.json",
}  # fmt: skip


@pytest.mark.parametrize("source", NAMES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(content=CONTENT, prefix=st.booleans())
def test_any_bytes_are_pairs_or_one_clear_error(source, content, prefix):
    folder = folder_of_its_own()
    if prefix:  # a valid beginning gets further into the reader
        family = next((each for each in FAMILIES.values() if each.source == source and source != "hh_harmless"), None)
        if family is not None:
            path = family.write(folder, family.make(3))
            content = path.read_bytes()[: 40 + len(content)] + content
    path = files.write(folder, NAMES[source], content)
    if source == "sampled_pairs":
        files.write(folder, path.name + ".provenance.json", content[::-1])
    try:
        options = {"axes": ["race"]} if source == "stereoset_pairs" else {}
        pairs = SOURCES[source].load(folder if source not in ("sampled_pairs",) else path, **options)
    except TeachfairError as error:
        str(error).encode("utf-8")
    else:
        check_pairs(pairs)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(part=st.sampled_from(holistic_bias.PARTS), value=st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=6), st.sampled_from(["ability", "{noun}", "female"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["ability", "female", "noun_phrase", "descriptor", "gender"]), inner, max_size=3),
    ), max_leaves=8,
))  # fmt: skip
def test_any_json_in_a_part_of_holistic_bias_is_texts_or_one_clear_error(part, value):
    folder = files.write_holistic(folder_of_its_own(), **{part: value})
    try:
        texts = holistic_bias.texts(folder, n=None)
    except TeachfairError as error:
        str(error).encode("utf-8")
    else:
        assert texts
        assert all(text["text"].strip() for text in texts)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(content=CONTENT)
def test_any_bytes_are_a_list_of_ids_or_one_clear_error(content):
    path = files.write(folder_of_its_own(), "ids.txt", content)
    try:
        exclusion = read_exclusion(path)
    except TeachfairError as error:
        str(error).encode("utf-8")
    else:
        assert exclusion.ids


@pytest.mark.parametrize("name", ["csv", "jsonl", "json", "jsonl.gz"])
def test_a_megabyte_in_one_record_is_read_and_a_bad_megabyte_is_named_in_brief(tmp_path, name):
    family = FAMILIES[name]
    long = "wug " * 262_144
    field = {"csv": "sent_less", "jsonl": "context", "json": "context", "jsonl.gz": "chosen"}[name]
    records = family.make(3)
    records[1] = {**records[1], field: (records[1][field] + long) if name == "jsonl.gz" else long}
    family.write(tmp_path, records)
    assert len(SOURCES[family.source].load(tmp_path)) >= 3
    records[1] = {**records[1], field: long + "\0"}
    family.write(tmp_path, records)
    with pytest.raises(TeachfairError) as caught:
        SOURCES[family.source].load(tmp_path)
    assert "NUL" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_rows_with_too_many_or_too_few_cells_are_named(tmp_path):
    text = files.csv_text([files.crows_row(n) for n in range(3)]).splitlines()
    text[2] += ",more,cells"
    text[3] = "2,only this"
    path = files.write(tmp_path, crows_pairs.FILE, "\n".join(text))
    with pytest.raises(TeachfairError) as caught:
        crows_pairs.load(path)
    assert f"{crows_pairs.FILE}:3: row: more cells" in caught.value.where
    assert f"{crows_pairs.FILE}:4: sent_less: text was wanted, this is null" in caught.value.where


def test_a_hostile_value_cannot_reach_the_terminal(tmp_path):
    records = [files.bbq_record(0, category="\x1b]0;pwned\x07"), files.bbq_record(1, label="\x1b[2J")]
    files.write_lines(tmp_path, "Age.jsonl", records)
    with pytest.raises(TeachfairError) as caught:
        SOURCES["bbq"].load(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_problems_of_all_files_are_listed_up_to_the_limit_with_the_total(tmp_path):
    for category in ("Age", "Religion"):
        files.write_lines(
            tmp_path, f"{category}.jsonl", [files.bbq_record(n, category=category, question=3) for n in range(30)]
        )
    with pytest.raises(TeachfairError) as caught:
        SOURCES["bbq"].load(tmp_path, limit_errors=40)
    assert "60 of 60 bbq records cannot be used" in caught.value.what
    assert "Religion.jsonl:10: question" in caught.value.where
    assert "and 20 more problems" in caught.value.where


def test_malformed_lines_of_the_unpaired_file_are_named_too():
    folder = winobias_write(folder_of_its_own(), FAMILIES["lines"].make(2))
    files.write(
        folder, "anti_stereotyped_type1.txt.dev", json.dumps({"a": 1}) + "\n2 [The chief] number2 sang as [she] came.\n"
    )
    with pytest.raises(TeachfairError, match=r"anti_stereotyped_type1.txt.dev:1: number"):
        winobias.load(folder, types=["type1"], parts=["dev"])


def test_at_least_500_files_were_made(request):
    if sum("test_every_malformed" in item.nodeid for item in request.session.items) < len(FAMILIES):
        pytest.skip("this test was run without the others of its file")
    assert MADE >= 500
