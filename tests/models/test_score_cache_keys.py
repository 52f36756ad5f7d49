"""Two questions never share a key in the score cache: not across kinds, models, lists of requests, or their numbers."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from teachfair.models import greedy, likelihood, next_words
from teachfair.models.score_cache import ScoreCache
from teachfair.models.scorer import PolicyScorer, load_scorer

# Small numbers and the letters that JSON writes with: what is cut elsewhere looks the same when it is laid end to end.
NUMBERS = st.integers(0, 3)
IDS = st.lists(NUMBERS, min_size=1, max_size=4).map(tuple)
TEXT = st.text(alphabet='a",[]\\ 0\ud83d\ude00😀', max_size=4)
TEXTS = st.lists(TEXT, max_size=3)
LISTS = st.lists(st.lists(TEXT, max_size=2), max_size=2)
PROMPTS = st.lists(st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=2), max_size=2)

SCOPES = st.one_of(
    st.tuples(st.just("texts"), TEXTS, st.booleans()),
    st.tuples(st.just("rolling"), TEXTS),
    st.tuples(st.sampled_from(["options", "continuations"]), st.one_of(PROMPTS, TEXTS), LISTS),
    st.tuples(st.sampled_from(["answers", "completions", "next_words"]), st.one_of(PROMPTS, TEXTS), NUMBERS),
    st.tuples(st.just("branches"), TEXTS, NUMBERS, NUMBERS),
)
SCORES = st.tuples(st.just("scores"), IDS, NUMBERS, st.booleans())
GENERATED = st.tuples(st.sampled_from(["answers", "starts", "rests"]), IDS, NUMBERS)


class Recorder(ScoreCache):
    """A cache that holds nothing and notes the keys it is asked for, as they would stand in its file."""

    def __init__(self, path: Path, identity: Any) -> None:
        super().__init__(path, identity)
        self.asked: list[bytes] = []

    def read(self, kind: int, keys: Any) -> dict[bytes, np.ndarray]:
        self.asked += keys
        return {}


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> list[Recorder]:
    folder = tmp_path_factory.mktemp("keys")
    return [Recorder(folder / "s.sqlite", identity) for identity in ("one model", ["one model"], {"policy": "a"})]


def digest_of(row: tuple[Any, ...]) -> bytes:
    kind, ids, *more = row
    if kind == "scores":
        return likelihood._digest((ids, more[0]), more[1])
    return greedy._digest(ids, *more) if kind == "answers" else next_words._digest(ids, *more)


def key_of(cache: Recorder, scope: tuple[Any, ...], row: tuple[Any, ...]) -> bytes:
    view = cache.within(*scope)
    ask = {
        "scores": view.get_many, "answers": view.get_answers, "starts": view.get_starts, "rests": view.get_rests
    }[row[0]]  # fmt: skip
    cache.asked.clear()
    ask([digest_of(row)])
    (key,) = cache.asked
    return key


@settings(deadline=None)
@given(
    st.lists(SCOPES, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.one_of(SCORES, GENERATED)), min_size=2, max_size=25),
)
def test_two_questions_that_differ_in_anything_have_two_keys(
    recorders: list[Recorder], scopes: list[Any], questions: list[Any]
) -> None:
    keys = {}
    for model, place, row in questions:  # few models and few lists of requests: many rows that differ in little
        scope = scopes[place % len(scopes)]
        keys[repr((model, scope, row))] = key_of(recorders[model], scope, row)
    assert len(set(keys.values())) == len(keys)


def test_rows_of_every_kind_whose_numbers_look_alike_end_to_end_have_their_own_keys(recorders: list[Recorder]) -> None:
    every: list[tuple[Any, ...]] = []
    for ids in itertools.chain.from_iterable(itertools.product(range(3), repeat=length) for length in (1, 2, 3)):
        every += [("scores", ids, start, whole) for start in range(3) for whole in (False, True)]
        every += [(kind, ids, count) for kind in ("answers", "starts", "rests") for count in range(3)]
    assert len({key_of(recorders[0], ("q",), row) for row in every}) == len(every) == 39 * 15


@pytest.mark.parametrize("number", [100, 2000])
def test_a_column_an_array_and_a_series_count_in_full_and_as_the_list_they_are(
    number: int, recorders: list[Recorder]
) -> None:
    """``str`` of each of them shows the first and the last few."""
    texts = [f"text {place}" for place in range(number)]
    row = ("scores", (1, 2), 1, False)
    plain = key_of(recorders[0], ("texts", texts, True), row)
    for form in (np.array, pd.Series, lambda some: Dataset.from_dict({"text": some})["text"], tuple):
        assert key_of(recorders[0], ("texts", form(texts), True), row) == plain
        changed = [*texts[: number // 2], "another", *texts[number // 2 + 1 :]]
        assert key_of(recorders[0], ("texts", form(changed), True), row) != plain
    counted = key_of(recorders[0], ("answers", texts, 5), row)
    assert key_of(recorders[0], ("answers", texts, np.int64(5)), row) == counted
    said = {"role": "user", "content": "yes"}
    assert key_of(recorders[0], ([MappingProxyType(said)],), row) == key_of(recorders[0], ([said],), row)
    with pytest.raises(TypeError, match="no collection"):
        recorders[0].within("texts", (text for text in texts))


def test_every_question_of_a_scorer_has_keys_of_its_own_and_the_same_ones_again(tiny_llama: Path, tmp_path: Path) -> None:
    texts = ["tom met", "tom met ann", "ann was late"]
    prompts = [[{"role": "user", "content": text}] for text in texts]
    loaded = load_scorer(tiny_llama, strict=False)
    recorder = Recorder(tmp_path / "s.sqlite", "m")
    scorer = PolicyScorer(loaded.model, loaded.tokenizer, recorder, strict=False)  # type: ignore[arg-type]
    asks: dict[str, Any] = {
        "texts": lambda: scorer.texts(texts),
        "texts, no bos": lambda: scorer.texts(texts, bos=False),
        "texts, fewer": lambda: scorer.texts(texts[:2]),
        "rolling": lambda: scorer.rolling(texts),
        "options": lambda: scorer.options(prompts, [["yes", "no"]] * 3),
        "options, other order": lambda: scorer.options(prompts, [["no", "yes"]] * 3),
        "continuations": lambda: scorer.continuations(["tom", "tom", "ann"], [[" met ann", " met"], [" was"], [" was"]]),
        "continuations, cut elsewhere": lambda: scorer.continuations(
            ["tom met", "tom", "ann"], [[" ann"], [" met", " was"], [" was"]]
        ),
        **{f"answers {n}": lambda n=n: scorer.answers(prompts, max_new_tokens=n) for n in (2, 3)},
        **{f"completions {n}": lambda n=n: scorer.completions(texts, max_new_tokens=n) for n in (2, 3)},
        **{f"next_words {k}": lambda k=k: scorer.next_words(texts, k) for k in (1, 2)},
        **{
            f"branches {k}, {n}": lambda k=k, n=n: scorer.branches(texts, k, max_new_tokens=n)
            for k, n in ((2, 3), (3, 2), (2, 2), (12, 8))  # 12 and 8 are what next_words tries for one word
        },
    }
    found: dict[str, set[bytes]] = {}
    for _ in range(2):
        for name, ask in asks.items():
            recorder.asked.clear()
            ask()
            assert recorder.asked
            assert found.setdefault(name, set(recorder.asked)) == set(recorder.asked)
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        assert not first & second, f"{one} and {other}"
