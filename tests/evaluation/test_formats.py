from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachfair.errors import ConfigError
from teachfair.evaluation import formats
from teachfair.models.likelihood import OptionScore

QUESTION = {
    "id": "q1", "cluster": "t1", "axis": "gender", "groups": ["a"], "lang": "en", "condition": "ambiguous",
    "context": "Tom met Ann.", "question": "Who was late?", "options": ["Tom", "Ann", "Not known"],
    "roles": ["stereotype", "anti", "unknown"],
}  # fmt: skip


@given(st.integers(1, 6))
def test_cyclic_orders_put_every_option_once_in_each_place(n: int):
    orders = formats.option_orders(n)
    assert len(orders) == n
    for place in range(n):
        assert sorted(order[place] for order in orders) == list(range(n))


@given(st.integers(1, 5))
def test_all_orders_are_all_permutations_and_one_is_the_authors(n: int):
    assert len(set(formats.option_orders(n, "all"))) == math.factorial(n)
    assert formats.option_orders(n, "one") == [tuple(range(n))]


def test_a_letter_stands_for_the_option_in_its_place():
    items = formats.asked(QUESTION, ["lettered"])
    assert [item["option_order"] for item in items] == ["012", "120", "201"]
    assert items[1]["prompt"] == "Tom met Ann.\nWho was late?\nA. Ann\nB. Not known\nC. Tom\nAnswer:"
    assert items[1]["answers"] == [" C", " A", " B"]  # parallel to the options, which keep their order
    assert items[1]["options"] == QUESTION["options"]
    assert (items[1]["id"], items[1]["base_id"]) == ("q1-lettered-120", "q1")


def test_formats_differ_in_listing_and_in_the_turn():
    plain, listed, chat = (formats.asked(QUESTION, [name], "one")[0] for name in ("plain", "listed", "chat"))
    assert plain["prompt"] == "Tom met Ann.\nWho was late?\nAnswer:"
    assert listed["prompt"] == "Tom met Ann.\nWho was late?\nOptions:\n- Tom\n- Ann\n- Not known\nAnswer:"
    assert chat["prompt"] == "Tom met Ann.\nWho was late?\nOptions:\n- Tom\n- Ann\n- Not known"
    assert (plain["answers"][0], chat["answers"][0]) == (" Tom", "Tom")
    assert formats.asked({**QUESTION, "lang": "fr"}, ["plain"])[0]["prompt"].endswith("\nRéponse :")


@pytest.mark.parametrize("names", [[], ["plain", "plain"], ["plane"]])
def test_formats_are_named_once_and_known(names: list[str]):
    with pytest.raises(ConfigError):
        formats.asked(QUESTION, names)
    with pytest.raises(ConfigError, match="cyclc"):
        formats.asked(QUESTION, ["plain"], "cyclc")


class FirstPlace:
    """A reader who always takes what is listed first."""

    tokenizer = None

    def continuations(self, contexts, continuations, *, progress=None):
        return [[OptionScore(0 if text == " A" else -2 - n, -3, 1) for n, text in enumerate(one)] for one in continuations]


def records_of(scorer, names) -> pd.DataFrame:
    items = formats.asked(QUESTION, names)
    return pd.DataFrame(
        [
            formats.answered("toy", item, scores)
            for item, scores in zip(items, formats.answer_scores(scorer, items), strict=True)
        ]
    )


def test_position_bias_of_a_reader_who_takes_the_first_option_is_one():
    records = records_of(FirstPlace(), ["lettered", "plain"])
    found = formats.position_bias(records)
    assert found["by_format"]["lettered"]["share_by_place"] == [1.0, 0.0, 0.0]
    assert found["max_minus_min"] == 1.0
    assert "plain" not in found["by_format"]
    # averaged over the orders, such a reader prefers nobody
    assert sorted(records.loc[records["format"] == "lettered", "chosen_role"]) == ["anti", "stereotype", "unknown"]
    nothing = formats.position_bias(records[records["format"] == "plain"])
    assert math.isnan(nothing["max_minus_min"])
    assert nothing["reasons"]


def test_mean_and_spread_over_ways_of_known_numbers():
    records = pd.DataFrame(
        {"format": ["a", "a", "b", "b"], "option_order": ["01", "10", "01", "10"], "x": [1.0, 3.0, 5.0, math.nan]}
    )
    found = formats.over_ways(records, lambda part: part["x"].mean())
    assert found["mean"] == 3.0
    assert found["by_format"] == {"a": 2.0, "b": 5.0}
    assert (found["max_minus_min"], found["max_minus_min_formats"], found["sd"]) == (4.0, 3.0, 2.0)
    assert (found["n_ways"], found["n_undefined"]) == (4, 1)
    empty = formats.over_ways(records.iloc[:0], lambda part: part["x"].mean())
    assert math.isnan(empty["mean"])
    assert "mean" in empty["reasons"]


class Broken:
    tokenizer = None

    def continuations(self, contexts, continuations, *, progress=None):
        return [[OptionScore(math.nan, -1.0, 1) for _ in one] for one in continuations]


def test_options_that_do_not_part_are_a_problem_and_are_counted():
    records = records_of(Broken(), ["plain"])
    assert set(records["problem"]) == {formats.UNPARTED}
    assert set(records["chosen_role"]) == {""}
    assert formats.unscored(records)["problems"] == {formats.UNPARTED: 3}
    assert formats.scored(records).empty


def test_two_answers_that_a_tokenizer_cannot_tell_apart_are_a_tie():
    class Same(Broken):
        def continuations(self, contexts, continuations, *, progress=None):
            return [[OptionScore(-1.0, -1.0, 1) for _ in one] for one in continuations]

    assert set(records_of(Same(), ["listed"])["chosen_role"]) == {"tie"}
