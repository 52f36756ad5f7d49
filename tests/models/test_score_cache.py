"""The score cache gives back what was stored, bit for bit, or nothing: never another number."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from teachfair.errors import RunFolderError
from teachfair.models.checkpoint import load_policy
from teachfair.models.score_cache import ScoreCache, model_identity
from teachfair.models.scorer import PolicyScorer, load_scorer, problem_of

TEXTS = ["tom met ann .", "ann met tom .", "the nurse was late ?", "eva left the station early"]
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_values_come_back_to_the_last_bit_also_nan_and_only_for_their_own_model_and_requests(tmp_path: Path) -> None:
    values = {key(1): np.array([-0.1, np.nan, -1e-300]), key(2): np.array([])}
    cache = ScoreCache(tmp_path / "s.sqlite", {"policy": "a"})
    cache.within("texts", ["x"]).put_many(values)
    cache.close()
    again = ScoreCache(tmp_path / "s.sqlite", {"policy": "a"})
    found = again.within("texts", ["x"]).get_many([key(1), key(2), key(3)])
    assert {name: one.tobytes() for name, one in found.items()} == {name: one.tobytes() for name, one in values.items()}
    assert again.within("texts", ["x", "y"]).get_many([key(1)]) == {}
    assert again.within("texts", ["x"]).get_answers([key(1)]) == {}
    other = ScoreCache(tmp_path / "s.sqlite", {"policy": "b"})
    assert other.within("texts", ["x"]).get_many([key(1)]) == {}
    assert again.report()["found"] == 2
    assert again.report()["bytes"] == (tmp_path / "s.sqlite").stat().st_size


def test_a_row_that_was_changed_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "s.sqlite", "m")
    view = cache.within("q")
    view.put_many({key(1): np.array([-1.0]), key(2): np.array([-2.0])})
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        changed = np.array([-0.5]).tobytes()
        file.execute("UPDATE rows SET value = ? WHERE value = ?", (changed, np.array([-1.0]).tobytes()))
    assert list(view.get_many([key(1), key(2)])) == [key(2)]
    assert cache.report()["damaged"] == 1
    view.put_many({key(1): np.array([-1.0])})
    assert view.get_many([key(1)])[key(1)].tolist() == [-1.0]


def test_rows_exchanged_for_one_another_are_both_refused(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "s.sqlite", "m")
    view = cache.within("q")
    view.put_many({key(1): np.array([-1.0]), key(2): np.array([-2.0])})
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        rows = file.execute("SELECT key, value, checksum FROM rows").fetchall()
        for (name, *_), (_, value, checksum) in zip(rows, rows[::-1], strict=True):
            file.execute("UPDATE rows SET value = ?, checksum = ? WHERE key = ?", (value, checksum, name))
    assert view.get_many([key(1), key(2)]) == {}


@pytest.mark.parametrize("content", [b"id,score\n1,0.5\n" * 40, b"SQLite format 3\0"])
def test_a_file_that_is_not_a_score_cache_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="not a score cache") as caught:
        ScoreCache(path, "m")
    assert str(path) in caught.value.where
    assert path.read_bytes() == content


def test_another_programs_sqlite_file_is_left_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "scores.sqlite") as file:
        file.execute("CREATE TABLE rows (key, value)")
    with pytest.raises(RunFolderError, match="not a score cache"):
        ScoreCache(tmp_path / "scores.sqlite", "m")


def test_a_layout_of_another_version_is_named(tmp_path: Path) -> None:
    ScoreCache(tmp_path / "scores.sqlite", "m").close()
    with sqlite3.connect(tmp_path / "scores.sqlite") as file:
        file.execute("PRAGMA user_version=7")
    with pytest.raises(RunFolderError, match="layout 7"):
        ScoreCache(tmp_path / "scores.sqlite", "m")


def test_a_damaged_cache_is_set_aside_at_opening_and_in_mid_run(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    ScoreCache(path, "m").within("q").put_many({key(n): np.arange(200.0) for n in range(200)})
    cache = ScoreCache(path, "m")  # open, and none of the rows read yet
    view = cache.within("q")
    size = path.stat().st_size
    with open(path, "r+b") as stream:  # all pages but the first are noise
        stream.seek(4096)
        stream.write(os.urandom(size - 4096))
    with pytest.warns(UserWarning, match="damaged"):
        assert view.get_many([key(n) for n in range(200)]) == {}
    view.put_many({key(1): np.array([-1.0])})
    assert view.get_many([key(1)])[key(1)].tolist() == [-1.0]
    assert (tmp_path / "scores.sqlite.damaged-1").stat().st_size == size
    cache.close()
    with open(path, "r+b") as stream:  # the header is ours, what follows it is not
        stream.seek(100)
        stream.write(b"\xff" * 3996)
    with pytest.warns(UserWarning, match="damaged-2"):
        fresh = ScoreCache(path, "m")
    assert fresh.within("q").get_many([key(1)]) == {}


def test_a_cache_that_cannot_be_written_says_so_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the file system's own: SQLite is told that its file may not grow."""
    cache = ScoreCache(tmp_path / "s.sqlite", "m")
    view = cache.within("q")
    (pages,) = cache._connection.execute("PRAGMA page_count").fetchone()
    cache._connection.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.warns(UserWarning, match="full"):
        view.put_many({key(n): np.arange(500.0) for n in range(20)})
    assert view.get_many([key(n) for n in range(20)]) == {}  # all of a batch or none of it
    assert cache.report()["not_stored"] == 20
    with pytest.raises(RunFolderError, match="cannot be used"):
        ScoreCache(tmp_path / "s.sqlite" / "below-a-file" / "s.sqlite", "m")


def write_many(path: Path, first: int) -> None:
    view = ScoreCache(path, "m").within("q")
    for number in range(first, first + 60):
        view.put_many({key(number): np.array([float(number)])})
        assert view.get_many([key(number)])[key(number)].tolist() == [float(number)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; runs on Linux and macOS")
def test_processes_that_share_a_cache_wait_for_one_another_and_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path / "s.sqlite", 60 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    cache = ScoreCache(tmp_path / "s.sqlite", "m")
    found = cache.within("q").get_many([key(number) for number in range(180)])
    assert {name: one.tolist() for name, one in found.items()} == {key(n): [float(n)] for n in range(180)}


def test_a_scorer_computes_nothing_that_it_has_kept_and_gives_the_same_bits(tiny_llama: Path, tmp_path: Path) -> None:
    scorer = load_scorer(tiny_llama, cache=tmp_path / "s.sqlite")

    def ask(one: PolicyScorer) -> list[object]:
        return [
            [score.logps.tobytes() for score in one.texts(TEXTS)],
            one.options(PROMPTS, [["yes", "no"], ["yes indeed", "no"], ["he", "she", "they"], ["tom"]]),
            one.continuations(TEXTS, [[" yes", " no"]] * 4),
            one.answers(PROMPTS, max_new_tokens=5),
            one.completions(TEXTS, max_new_tokens=5),
            one.next_words(TEXTS, 3),
            one.branches(TEXTS, 3, max_new_tokens=5),
            one.branches(TEXTS, 2, max_new_tokens=1),
        ]

    first, tokens = ask(scorer), scorer.tokens
    again = load_scorer(tiny_llama, cache=tmp_path / "s.sqlite")

    def refuse(*positional: object, **named: object) -> None:
        raise AssertionError("a forward pass, though everything is in the cache")

    again.model.forward = refuse  # type: ignore[assignment]
    assert ask(again) == first
    assert again.tokens == tokens > 0
    assert ask(load_scorer(tiny_llama)) == first


@pytest.mark.parametrize(
    "fact",
    ["policy", "dtype", "threads", "code", "versions", "chat_template", "device", "processor", "attention",
     "float32_products"],
)  # fmt: skip
def test_whatever_decides_a_scores_bits_is_part_of_the_key(fact: str, tiny_llama: Path, tmp_path: Path) -> None:
    identity = model_identity(tiny_llama, *load_policy(tiny_llama), dtype="float32")
    view = ScoreCache(tmp_path / "s.sqlite", identity).within("q")
    view.put_many({key(1): np.array([-1.0])})
    other = ScoreCache(tmp_path / "s.sqlite", identity | {fact: "another"}).within("q")
    assert view.get_many([key(1)])
    assert not other.get_many([key(1)])


def test_a_process_that_multiplies_in_lower_precision_finds_nothing_of_one_that_does_not(tiny_llama: Path) -> None:
    """PyTorch's switch for it holds for the whole process; training arguments (``tf32``) set it."""
    import torch

    loaded = load_policy(tiny_llama)
    plain = model_identity(tiny_llama, *loaded, dtype="float32")
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        assert model_identity(tiny_llama, *loaded, dtype="float32") != plain
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert model_identity(tiny_llama, *loaded, dtype="float32") == plain


def test_completions_are_plain_text_that_begins_with_bos(tiny_llama: Path) -> None:
    import torch

    scorer = load_scorer(tiny_llama)
    for text, answer in zip(TEXTS, scorer.completions(TEXTS, max_new_tokens=4), strict=True):
        ids = [scorer.tokenizer.bos_token_id, *scorer.tokenizer(text, add_special_tokens=False)["input_ids"]]
        said: list[int] = []
        while len(said) < 4:
            token = int(scorer.model(torch.tensor([ids + said])).logits[0, -1].argmax())
            if token == scorer.tokenizer.eos_token_id:
                break
            said.append(token)
        assert answer.text == scorer.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert (answer.n_tokens, answer.finished) == (len(said), len(said) < 4)


def test_prompts_that_cannot_be_answered_are_named_and_do_not_shorten_the_others(tiny_llama: Path) -> None:
    scorer = load_scorer(tiny_llama, strict=False)
    long = " ".join(["late"] * 140)
    answers = scorer.completions([TEXTS[0], long, TEXTS[1]], max_new_tokens=8)
    assert [answer.problem for answer in answers] == ["", "too long", ""]
    assert answers[::2] == scorer.completions(TEXTS[:2], max_new_tokens=8)
    assert scorer.problems == {"too long": 1}
    assert problem_of([]) == "no options"
    assert problem_of(answers) == "too long"
