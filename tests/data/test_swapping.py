"""Swapping the group words of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachfair.data.swapping import swap_mapping, swapped_messages, swapped_text
from teachfair.errors import InputError

SWAP = [["she", "he"], ["Ann", "Ben"], ["old woman", "old man"], ["woman", "man"]]


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("She saw Ann, and HE saw ben.", "He saw Ben, and SHE saw ann."),
        ("The old woman and the woman", "The old man and the man"),
        ("sheet, then, Anna, Benin", "sheet, then, Anna, Benin"),
        ("", ""),
    ],
)
def test_whole_words_change_places_and_keep_their_capitals(text: str, swapped: str) -> None:
    assert swapped_text(text, SWAP) == swapped


@given(st.lists(st.sampled_from(["she", "He", "ANN", "Ben", "woman", "old man", "sheet", ".", "x"]), max_size=12))
def test_swapping_twice_gives_the_text_back(words: list[str]) -> None:
    text = " ".join(words)
    assert swapped_text(swapped_text(text, SWAP), SWAP) == text


def test_a_mapping_and_a_list_are_the_same_and_the_nulls_of_a_data_set_are_left_out() -> None:
    assert swap_mapping({"she": "he", "ann": None}) == swap_mapping([["she", "he"]]) == {"she": "he", "he": "she"}
    assert swap_mapping(None) == swap_mapping([]) == {}
    assert swapped_messages([{"role": "user", "content": "Ann?"}], SWAP) == [{"role": "user", "content": "Ben?"}]


@pytest.mark.parametrize("swap", [[["her", "his"], ["her", "him"]], [["a"]], [["a", ""]], [["a", 1]], {"a": "b", "c": "b"}])
def test_a_swap_that_is_not_one_is_refused(swap: object) -> None:
    with pytest.raises(InputError) as error:
        swap_mapping(swap, "row 3")
    assert error.value.where == "row 3"
    assert error.value.fix
