"""The arithmetic of PPO against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from teachfair.alignment.advantages import clipped_value_loss, gae, token_rewards, whiten


def close(tensor: torch.Tensor, expected: list[list[float]]) -> bool:
    return torch.allclose(tensor.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_in_a_bandit_the_advantage_is_the_reward_less_the_value_and_the_best_arm_alone_is_above_zero() -> None:
    # Three arms pulled once each: rewards 1, 0, 0.5. A uniform policy's value is their mean, 0.5.
    rewards, values, mask = torch.tensor([[1.0], [0.0], [0.5]]), torch.full((3, 1), 0.5), torch.ones(3, 1)
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.7)  # one step: γ and λ cannot matter
    assert close(advantages, [[0.5], [-0.5], [0.0]])
    assert close(returns, [[1.0], [0.0], [0.5]])
    # Optimal policy: softmax policy gradient moves along the advantage, so arm 0 gains probability, arm 1 loses it.
    logits = torch.zeros(3, requires_grad=True)
    (torch.log_softmax(logits, 0) * advantages[:, 0]).sum().backward()
    assert logits.grad is not None
    assert close(logits.grad[None], [[0.5, -0.5, 0.0]])


def test_on_a_two_state_chain_the_advantages_are_the_ones_worked_out_by_hand() -> None:
    # Start s0; "go" pays 0 and leads to s1, where "take" pays 1 and "leave" pays 0; "stop" in s0 pays 0.4 and ends.
    # Optimal: go, take (worth γ·1 = 0.9 > 0.4). Values of a uniform policy at γ = 0.9:
    #   V(s1) = ½·1 + ½·0 = 0.5;   V(s0) = ½·0.4 + ½·(0 + 0.9·0.5) = 0.425
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.4, 9.0]])  # the 9 stands behind the end and must not count
    values = torch.tensor([[0.425, 0.5], [0.425, 0.5], [0.425, 9.0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    # s1: δ = 1 − 0.5 = 0.5 and 0 − 0.5 = −0.5.   s0, go: δ = 0 + 0.9·0.5 − 0.425 = 0.025, then + 0.9·0.8·(±0.5) = ±0.36
    # s0, stop: 0.4 − 0.425 = −0.025
    assert close(advantages, [[0.385, 0.5], [-0.335, -0.5], [-0.025, 0.0]])
    assert close(returns, [[0.81, 1.0], [0.09, 0.0], [0.4, 0.0]])
    # Averaged over what follows, going is right (+0.025) and stopping wrong (−0.025), as the optimal policy has it.
    assert advantages[:2, 0].mean() == pytest.approx(0.025, abs=1e-6)


def test_without_discount_and_with_lambda_one_the_return_is_the_sum_of_what_follows() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    for values in (torch.zeros(1, 3), torch.tensor([[5.0, -3.0, 0.5]])):
        assert close(gae(rewards, values, torch.ones(1, 3), 1.0, 1.0)[1], [[7.0, 6.0, 4.0]])


def test_each_token_pays_for_its_divergence_and_the_last_one_gets_the_score() -> None:
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]])
    ref = torch.tensor([[-1.5, -1.0, -3.0], [-1.5, -1.0, 7.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = token_rewards(torch.tensor([10.0, 20.0]), logps, ref, mask, kl_coef=0.1)
    # −0.1·(−1 + 1.5) = −0.05;  −0.1·(−2 + 1) = +0.1;  −0.1·0 + 10;  the second answer is two tokens long
    assert close(found, [[-0.05, 0.1, 10.0], [-0.05, 20.1, 0.0]])
    assert close(token_rewards(torch.tensor([10.0, 20.0]), logps, None, mask, 0.1), [[0, 0, 10.0], [0, 20.0, 0]])


def test_an_answer_whose_tokens_are_all_masked_gets_no_reward() -> None:
    found = token_rewards(torch.tensor([3.0]), torch.zeros(1, 2), None, torch.zeros(1, 2), 0.1)
    assert close(found, [[0.0, 0.0]])


def test_whitening_ignores_what_is_masked_and_counts_all_ranks() -> None:
    x, mask = torch.tensor([[1.0, 3.0], [5.0, 99.0]]), torch.tensor([[1, 1], [1, 0]])
    # mean 3, unbiased variance (4 + 0 + 4)/2 = 4
    assert close(whiten(x, mask), [[-1.0, 0.0], [1.0, 0.0]])
    assert close(whiten(x, mask, shift_mean=False), [[2.0, 3.0], [4.0, 0.0]])
    # Two ranks with the same tokens: n = 6, variance 16/5
    half = 2 / math.sqrt(16 / 5)
    assert close(whiten(x, mask, total=lambda tensor: 2 * tensor), [[-half, 0.0], [half, 0.0]])


def test_whitening_a_single_token_or_none_is_finite() -> None:
    assert close(whiten(torch.tensor([[7.0, 1.0]]), torch.tensor([[1, 0]])), [[0.0, 0.0]])
    assert close(whiten(torch.tensor([[7.0, 1.0]]), torch.zeros(1, 2)), [[0.0, 0.0]])


def test_the_value_loss_takes_the_worse_of_the_value_and_the_clipped_value() -> None:
    old, returns = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, -1.0]])
    values = torch.tensor([[0.1, 0.9, 0.9]])
    # 0.1 is within 0.2: ½·0.81.  0.9 → clipped 0.2: ½·max(0.01, 0.64).  away from the return: ½·max(3.61, 1.44)
    assert close(clipped_value_loss(values, old, returns, 0.2), [[0.405, 0.32, 1.805]])
