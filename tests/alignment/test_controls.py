"""The controls teach something else, with the same number and form of pairs."""

from __future__ import annotations

import pytest
from datasets import Dataset

from teachfair.alignment.controls import placebo, sham
from teachfair.errors import ConfigError


def pairs(n: int, tag: str = "") -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"{tag}q{i}"}],
                "chosen": [{"role": "assistant", "content": f"{tag}fair{i}"}],
                "rejected": [{"role": "assistant", "content": f"{tag}unfair{i}"}],
                "id": str(i),
            }
            for i in range(n)
        ]
    )


def test_sham_turns_half_of_the_pairs_and_keeps_every_text() -> None:
    before, after = pairs(101), sham(pairs(101), seed=3)
    turned = [a["chosen"] != b["chosen"] for a, b in zip(after, before, strict=True)]
    assert sum(turned) == 50
    for a, b in zip(after, before, strict=True):
        assert {a["chosen"][0]["content"], a["rejected"][0]["content"]} == {
            b["chosen"][0]["content"], b["rejected"][0]["content"],
        }  # fmt: skip
        assert a["prompt"] == b["prompt"]
        assert a["id"] == b["id"]
    assert list(sham(pairs(101), seed=3)["chosen"]) == list(after["chosen"])
    assert list(sham(pairs(101), seed=4)["chosen"]) != list(after["chosen"])


def test_placebo_has_the_number_of_the_taught_pairs_and_none_of_them() -> None:
    after = placebo(pairs(20), seed=0, neutral_pairs=pairs(50, "neutral-"))
    assert len(after) == 20
    assert all(row["chosen"][0]["content"].startswith("neutral-") for row in after)


def test_placebo_without_enough_neutral_pairs_says_how_many_are_missing() -> None:
    with pytest.raises(ConfigError, match="needs 20 fairness-neutral pairs, found 5"):
        placebo(pairs(20), seed=0, neutral_pairs=pairs(5))
    with pytest.raises(ConfigError, match="found 0"):
        placebo(pairs(20), seed=0)
