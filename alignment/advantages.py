"""The arithmetic of PPO, as functions of tensors.

Shapes: B completions, T tokens of the longest one. ``mask`` (B, T) is 1 at a completion's own tokens and 0 behind
them. All sums run over tokens whose mask is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def token_rewards(scores: Tensor, logps: Tensor, ref_logps: Tensor | None, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token: the price of leaving the reference, and the score on the last token.

        r_t = −kl_coef · (log π(y_t) − log π_ref(y_t)) + [t is the last token] · score

    (Ziegler et al. 2019, Fine-Tuning Language Models from Human Preferences, eq. 2; the KL estimator is k1.)

    Args: scores (B,), logps and ref_logps (B, T) in nats; without ref_logps there is no price. Returns: (B, T).
    """
    import torch

    mask = mask.to(logps.dtype)
    rewards = torch.zeros_like(logps) if ref_logps is None else -kl_coef * (logps - ref_logps) * mask
    lengths = mask.sum(dim=1).long()
    rows = torch.arange(len(lengths), device=logps.device)
    has_tokens = (lengths > 0).to(logps.dtype)
    at_the_end = torch.zeros_like(rewards)
    at_the_end[rows, (lengths - 1).clamp(min=0)] = scores.to(logps.dtype) * has_tokens
    return rewards + at_the_end


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16) over each completion.

        δ_t = r_t + γ·V(s_{t+1}) − V(s_t),    A_t = δ_t + γλ·A_{t+1},    R_t = A_t + V(s_t)

    V is 0 behind the last token, also where the completion was cut off at its maximal length.

    Args: rewards and values (B, T); values[:, t] is V of the state *before* token t. Returns: (A, R), (B, T) each.
    """
    import torch

    mask = mask.to(values.dtype)
    values = values * mask
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, (advantages + values) * mask


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Scale to unit variance (and zero mean) over all masked tokens of all ranks; 0 where the mask is 0.

    Args:
        shift_mean: False keeps the mean, for rewards.
        total: sums a tensor over the ranks; None: there is one rank.
    Returns: (B, T). The variance is the unbiased one; x comes back (less its mean) where there is but one token.
    """
    import torch

    total = total or (lambda tensor: tensor)
    mask = mask.to(x.dtype)
    count, sum_ = total(torch.stack([mask.sum(), (x * mask).sum()]))
    mean = sum_ / count.clamp(min=1)
    variance = total((((x - mean) ** 2) * mask).sum()) / (count - 1).clamp(min=1)
    scale = torch.rsqrt(variance + 1e-8) if count > 1 else torch.ones_like(variance)
    white = (x - mean) * scale
    return (white if shift_mean else white + mean) * mask


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """Half the squared error of the value, pessimistic about steps larger than ``cliprange``.

        L_t = ½·max( (V − R)², (clip(V, V_old − c, V_old + c) − R)² )

    (Huang et al. 2024, The N+ Implementation Details of RLHF with PPO, arXiv:2403.17031, detail 8.)

    Args: values, old_values (at the time of the rollout), returns: (B, T). Returns: (B, T), not masked.
    """
    import torch

    clipped = torch.maximum(torch.minimum(values, old_values + cliprange), old_values - cliprange)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
