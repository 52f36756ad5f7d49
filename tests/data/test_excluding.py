"""Lists of excluded ids: which are lists, and what travels with the pairs."""

from __future__ import annotations

import pytest

from teachfair.data import SOURCES
from teachfair.data.excluding import read_exclusion
from teachfair.data.pairs import counts_of
from teachfair.errors import ConfigError, DataError


def test_the_hash_of_a_list_is_that_of_its_ids_whatever_their_order_and_comments(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf# contested\r\n\r\ntwo\r\n  one  \r\n")
    (tmp_path / "c").write_text("one\ntwo\nthree\n")
    a, b, c = (read_exclusion(tmp_path / name) for name in "abc")
    assert a.ids == b.ids == {"one", "two"}
    assert a.sha256 == b.sha256 != c.sha256


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"one\ntwo\none\n", "list:3: id: one was already named on line 1"),
        (b"one\nt\0wo\n", "list:2: id: holds a NUL"),
        ("één\n".encode("cp1252"), "not UTF-8"),
        ("one\n".encode("utf-16"), "UTF-16"),
        (b"", "empty"),
        (b"# nothing\n", "names no id"),
    ],
)
def test_a_file_that_is_no_list_of_ids_is_refused(tmp_path, content, what):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_exclusion(tmp_path / "list")
    assert what in str(caught.value)


def test_a_list_that_is_not_there_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_exclusion(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="a folder"):
        read_exclusion(tmp_path)


def test_pairs_of_the_sandbox_and_of_a_file_can_be_excluded_too(tmp_path, caplog):
    load = SOURCES["sandbox"].load
    pairs = load(n=10)
    (tmp_path / "list").write_text("\n".join(pairs["id"][:4]))
    less = load(n=10, exclude_ids=tmp_path / "list")
    assert less["id"] == pairs["id"][4:]
    counts = counts_of(less)
    assert (counts["read"], counts["kept"], counts["excluded"], counts["exclusions"][0]["met"]) == (10, 6, 4, 4)
    pairs.to_parquet(tmp_path / "train.parquet")
    assert SOURCES["preference_file"].load(tmp_path, exclude_ids=tmp_path / "list")["id"] == less["id"]
    assert counts_of(less.filter(lambda row: row["id"] != less["id"][0]))["exclusions"], "it travels through filters"
    (tmp_path / "list").write_text("\n".join(pairs["id"]))
    with pytest.raises(DataError, match="every pair is on the list"):
        load(n=10, exclude_ids=tmp_path / "list")
    (tmp_path / "list").write_text("another-source-0")
    load(n=10, exclude_ids=tmp_path / "list")
    assert "none of its 1 ids" in caplog.text


def test_the_list_reaches_the_facts_that_a_reward_models_run_record_holds(tmp_path):
    from teachfair.reward_models.training import _data_facts

    pairs = SOURCES["sandbox"].load(n=10)
    (tmp_path / "list").write_text(pairs["id"][0])
    facts = _data_facts(SOURCES["sandbox"].load(n=10, exclude_ids=tmp_path / "list"))
    assert facts["as_read"]["exclusions"][0]["ids"] == 1
