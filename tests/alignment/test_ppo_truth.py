"""PPO against answers worked out by hand: the benchmark's own functions, so that its table cannot drift from the trainer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def truth() -> Iterator[Any]:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import ppo_truth

        yield ppo_truth
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def untaught(truth: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return truth.tiny_policy(tmp_path_factory.mktemp("chain") / "untaught")


def test_a_rollouts_divergence_values_targets_and_advantages_are_those_worked_out_by_hand(
    truth: Any, untaught: Path, tmp_path: Path
) -> None:
    found = truth.rollout_rows(untaught, tmp_path, seeds=1)[0]
    # the comparison means something only where the policy has moved and the values are not 0 any more
    assert abs(found.pop("(KL an answer by hand)")) > 0.01
    assert found.pop("(mean absolute value by hand)") > 0.05
    assert len(found) == 5
    assert max(found.values()) < 1e-6, found


def test_a_mistake_in_the_recursion_would_be_seen(truth: Any, untaught: Path, tmp_path: Path) -> None:
    rollouts: list[dict[str, Any]] = []
    truth.teach(
        untaught, tmp_path / "r", truth.chain, rollouts=rollouts, max_steps=6, learning_rate=3e-3, kl_coef=0.3, gamma=0.9,
        lam=0.8,
    )  # fmt: skip
    found = truth.largest_differences(rollouts[-1], untaught, truth.chain, price=0.3, gamma=0.9, lam=0.75)
    assert found["value targets"] > 1e-4
    assert found["values"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("price", [0.0, 0.5])
def test_in_the_chain_ppo_reaches_the_optimum_within_two_percent(
    price: float, truth: Any, untaught: Path, tmp_path: Path
) -> None:
    best = truth.best_in_chain(untaught, price)
    start = truth.expected_in_chain(untaught, untaught, price)
    out = truth.teach(untaught, tmp_path / "r", truth.chain, kl_coef=price, **(truth.MORE if price else {}))
    taught = truth.expected_in_chain(out, untaught, price)
    assert start["objective"] < 0.85 * best["objective"]
    assert 0.98 * best["objective"] <= taught["objective"] <= best["objective"] + 1e-9
    assert taught["reward"] == pytest.approx(best["reward"], abs=0.02)
    assert taught["to A"] == pytest.approx(best["to A"], abs=0.02)
