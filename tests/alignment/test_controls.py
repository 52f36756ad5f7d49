"""The controls teach something else, with the same number and form of pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from teachfair.alignment.controls import ShuffledReward, placebo, sham
from teachfair.errors import ConfigError, InputError


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


def batch(n: int, tag: str = "") -> dict[str, Any]:
    return {
        "prompts": [[{"role": "user", "content": f"{tag}q{i}"}] for i in range(n)],
        "completions": [[{"role": "assistant", "content": f"a{i}"}] for i in range(n)],
    }


def numbered(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """The reward of answer i is i."""
    return [float(answer[-1]["content"][1:]) for answer in completions]


def at(step: int) -> SimpleNamespace:
    return SimpleNamespace(global_step=step)


def test_shuffled_rewards_are_the_same_numbers_for_other_answers() -> None:
    given = ShuffledReward(numbered, seed=0)(**batch(32), trainer_state=at(3))
    assert sorted(given) == list(range(32))
    assert given != list(range(32))


def test_the_order_depends_on_seed_step_and_batch_and_not_on_what_came_before() -> None:
    """A resumed run builds a new object in the middle: it must shuffle as the unbroken one did."""
    unbroken = ShuffledReward(numbered, seed=0)
    seen = [unbroken(**batch(16), trainer_state=at(step)) for step in range(4)]
    resumed = ShuffledReward(numbered, seed=0)
    assert [resumed(**batch(16), trainer_state=at(step)) for step in (2, 3)] == seen[2:]
    assert len({tuple(order) for order in seen}) == 4, "another step, another order"
    assert ShuffledReward(numbered, seed=1)(**batch(16), trainer_state=at(0)) != seen[0]
    assert ShuffledReward(numbered, seed=0)(**batch(16, "other"), trainer_state=at(0)) != seen[0]


def test_a_shuffled_reward_says_nothing_of_the_answer_on_average() -> None:
    """Also not by its absence: if the true reward were never given back, the best answer would expect less."""
    reward = ShuffledReward(numbered, seed=0)
    given = np.array([reward(**batch(4), trainer_state=at(step)) for step in range(4000)])
    # sd of one reward is 1.12, so the standard error of a mean is .018
    assert np.abs(given.mean(axis=0) - 1.5).max() < 0.08


def test_rewards_that_do_not_apply_stay_with_their_rows() -> None:
    def some(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        return [None if i % 2 else float(i) for i in range(len(completions))]

    given = ShuffledReward(some, seed=0)(**batch(12), trainer_state=at(0))
    assert [value is None for value in given] == [bool(i % 2) for i in range(12)]
    assert sorted(value for value in given if value is not None) == [0, 2, 4, 6, 8, 10]


def test_the_true_reward_logs_as_ever_and_its_identity_is_part_of_the_shams() -> None:
    class Reward:
        __name__ = "mine"

        def identity(self) -> dict[str, Any]:
            return {"scorer": "abc"}

        def report(self) -> dict[str, Any]:
            return {"scorer": "abc", "counts": {}}

        def __call__(self, prompts: Any, completions: Any, completion_ids: Any = None, **more: Any) -> list[float]:
            more["log_metric"]("fairness/score", 1.0)
            assert more["group"] == ["x"] * 8
            return numbered(prompts, completions)

    logged: dict[str, Any] = {}
    sham_reward = ShuffledReward(Reward(), seed=5)
    given = sham_reward(
        **batch(8), group=["x"] * 8, trainer_state=at(0), log_metric=logged.__setitem__, log_extra=logged.__setitem__
    )
    assert logged == {"fairness/score": 1.0, "shuffled_reward": given}
    assert sham_reward.__name__ == "shuffled_mine"
    assert sham_reward.identity() == {"shuffled": {"reward": {"scorer": "abc"}}, "seed": 5}
    assert sham_reward.report()["scorer"] == "abc"
    assert sham_reward.report()["shuffle_counts"]["answers"] == 8


def test_a_batch_of_one_answer_cannot_be_a_sham() -> None:
    with pytest.raises(InputError, match="cannot be shuffled"):
        ShuffledReward(numbered, seed=0)(**batch(1), trainer_state=at(0))


def test_a_reward_that_is_no_function_is_refused() -> None:
    async def later(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return numbered(prompts, completions)

    with pytest.raises(ConfigError, match="asynchronous"):
        ShuffledReward(later, seed=0)
    with pytest.raises(ConfigError, match=r"FairnessReward\.load"):
        ShuffledReward("runs/reward_model", seed=0)
