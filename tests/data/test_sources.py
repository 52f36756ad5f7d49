"""Sources: the pairs they give, their cards, and what they say of a path that is not there."""

import json
import subprocess
import sys

import pytest

from teachfair.data import SOURCES
from teachfair.data.pairs import PAIR_COLUMNS, counts_of
from teachfair.data.sources import preference_file, stereoset_pairs
from teachfair.errors import ConfigError, DataError

COUNTS = {
    "gender": 2019,
    "profession": 6470,
    "race": 7861,
    "religion": 645,
}  # profession holds one equal pair


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_a_complete_card(name):
    card = SOURCES[name].CARD
    assert card["name"] == name
    for key in ("meaning", "licence", "language", "norm", "version", "formats", "problems"):
        assert card[key], key


def test_importing_the_sources_loads_nothing_heavy():
    heavy = "torch transformers trl datasets pandas scipy sklearn pyarrow"
    modules = "teachfair.data, teachfair.data.pairs, teachfair.data.shortcuts"
    code = f"import sys, {modules}\nprint([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture
def folder(tmp_path):
    for axis in stereoset_pairs.AXES:
        rows = [
            {
                "prompt": f"The {axis}  is BLANK.",
                "chosen": f"The {axis} is kind.",
                "rejected": f"The {axis} is  cruel.",
            },
            {"prompt": f"A {axis} came.", "chosen": "It sang.", "rejected": "It stole."},
            {"prompt": f"A {axis} came.", "chosen": "It sang. ", "rejected": "It  sang."},
        ]
        (tmp_path / f"{axis}_data.json").write_text(json.dumps(rows))
        (tmp_path / f"{axis}_intra_data.json").write_text(json.dumps(rows[:1]))
    return tmp_path


def test_stereoset_pairs_are_counted_once_normalised_and_labelled(folder, caplog):
    pairs = stereoset_pairs.load(folder)
    assert tuple(pairs.column_names) == PAIR_COLUMNS
    assert len(pairs) == 8, "the intra files repeat rows, and one pair of each axis has equal sides"
    assert caplog.text.count("dropped 1 pairs") == 4
    assert counts_of(pairs.select([0]))["dropped_equal"] == 4
    assert counts_of(pairs)["read"] == 12
    assert set(pairs["kind"]) == {"anti-vs-stereotype"}
    assert pairs[0]["rejected"][0]["content"] == "The gender is cruel."
    assert len(stereoset_pairs.load(folder, axes=["race"], contexts=["intra"])) == 1


def test_a_test_share_of_the_prompts_is_kept_out_of_training(folder):
    whole = {row["id"] for row in stereoset_pairs.load(folder)}
    train = stereoset_pairs.load(folder, test_share=0.5)
    test = stereoset_pairs.load(folder, "test", test_share=0.5)
    assert set(train["cluster"]).isdisjoint(test["cluster"])
    assert {*train["id"], *test["id"]} == whole


def test_unknown_names_and_missing_folders_are_told(folder):
    with pytest.raises(ConfigError, match="did you mean 'race'"):
        stereoset_pairs.load(folder, axes=["rase"])
    with pytest.raises(DataError, match="gender_data"):
        stereoset_pairs.load(folder / "nowhere")
    with pytest.raises(DataError, match="no such file"):
        preference_file.load(folder / "pairs.jsonl")
    with pytest.raises(DataError, match="neither a file nor a dataset"):
        preference_file.load("nobody/nothing")
    with pytest.raises(ConfigError, match="generated"):
        SOURCES["sandbox"].load("pairs.jsonl")


def test_a_folder_with_a_file_per_split_is_read_by_split(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, "prompt": "q"}))
    assert preference_file.load(tmp_path, "test")[0]["prompt"][0]["content"] == "q"
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(DataError, match="holds 2 files"):
        preference_file.load(tmp_path, "test")


@pytest.mark.shared
def test_stereoset_pairs_have_the_counts_of_the_published_folder(shared):
    pairs = stereoset_pairs.load(shared / "data" / "stereoset_pairs_phd")
    found = {axis: list(pairs["axis"]).count(axis) for axis in COUNTS}
    assert found == {**COUNTS, "profession": COUNTS["profession"] - 1}
    assert sum(COUNTS.values()) == len(pairs) + 1 == 16_995
    assert len(set(pairs["id"])) == len(pairs)


@pytest.mark.shared
def test_one_of_the_real_files_is_read_as_a_plain_preference_file_too(shared):
    path = shared / "data" / "stereoset_pairs_phd" / "profession_data.json"
    with pytest.raises(DataError, match=r"1 of 6470 preference rows"):
        preference_file.load(path)
    assert len(preference_file.load(path, drop_equal=True)) == 6469


def test_sandbox_pairs_come_balanced_over_evidence_that_agrees_and_clashes():
    pairs = SOURCES["sandbox"].load(n=400, seed=3)
    assert tuple(pairs.column_names) == PAIR_COLUMNS
    assert len(pairs) == 400
    kinds = list(pairs["kind"])
    assert abs(kinds.count("evidence-vs-stereotype") - kinds.count("evidence-vs-anti")) <= 1
    placebo = SOURCES["sandbox"].load(n=50, placebo=True)
    assert set(placebo["kind"]) == {"placebo"}
