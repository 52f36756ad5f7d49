"""Decide at inference only: sample answers, let the fairness reward model choose among them. No weight changes.

- **Best-of-n**: the answer with the highest of n rewards. Its distance from the policy is at most
  KL(π_n ‖ π) ≤ log n − (n − 1)/n (Stiennon et al. 2020, arXiv:2009.01325, appendix G.3, as an equality; an upper bound by
  Beirami et al. 2024, arXiv:2401.01879).
- **Soft best-of-n** (Verdun et al. 2025, arXiv:2505.03156): one of n answers, with probability ∝ exp(r/β). With n → ∞ this
  is the optimum of KL-regularised reward maximisation, π(y|x)·exp(r(x, y)/β)/Z(x) (Rafailov et al. 2023, eq. 4), the
  policy that teaching with the same reward and β aims at; for few answers it is an importance-sampling estimate of it.
- **Reward-guided options**: where an item's options are given, that optimum is exact: log π(option) + r(option)/β.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError

if TYPE_CHECKING:
    from teachfair.reward_models.scoring import RewardModel

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Candidates:
    """Answers that a policy gave, and what the reward model thinks of them.

    ``answers``: one list of n texts a prompt; ``rewards``: (prompts, n) float64, logits, higher = fairer.
    """

    answers: list[list[str]]
    rewards: np.ndarray

    def best(self, n: int) -> list[int]:
        """Place of the best of the first ``n`` answers of each prompt; of equal ones the first."""
        _check_n(n, self.rewards.shape[1])
        return [int(place) for place in self.rewards[:, :n].argmax(axis=1)]

    def soft_best(self, n: int, beta: float, seed: int) -> list[int]:
        """Place of one of the first ``n`` answers of each prompt, drawn ∝ exp(r/β). A large β draws evenly."""
        _check_n(n, self.rewards.shape[1])
        _check_beta(beta)
        draw = np.random.default_rng(seed)
        logits = self.rewards[:, :n] / beta
        # Gumbel-max: argmax of logits + Gumbel noise is a draw from their softmax
        return [int(place) for place in (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)]

    def texts(self, places: Sequence[int]) -> list[str]:
        """The answers at these places, one a prompt."""
        return [row[place] for row, place in zip(self.answers, places, strict=True)]


def sample_candidates(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], reward_model: RewardModel, *, n: int, seed: int,
    max_new_tokens: int = 64, temperature: float = 1.0,
) -> Candidates:  # fmt: skip
    """``n`` answers of the policy to each prompt, by :func:`teachfair.alignment.sampling.sample_answers`, with rewards.

    Equal answers to a prompt are judged once. Raises: as ``sample_answers`` and ``RewardModel.score``.
    """
    from teachfair.alignment.sampling import sample_answers
    from teachfair.models.chat import ensure_chat_template, ensure_pad_token

    ensure_chat_template(tokenizer)
    ensure_pad_token(tokenizer, model)
    answers = sample_answers(
        model, tokenizer, list(prompts), n=n, seed=seed, max_new_tokens=max_new_tokens, temperature=temperature
    )
    return Candidates(answers, rewards_of(reward_model, prompts, answers))


def rewards_of(reward_model: RewardModel, prompts: Sequence[Messages], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """(prompts, n) float64 rewards of n answers to each prompt."""
    distinct: dict[tuple[int, str], int] = {}
    for row, texts in enumerate(answers):
        for text in texts:
            distinct.setdefault((row, text), len(distinct))
    conversations = [[*prompts[row], {"role": "assistant", "content": text}] for row, text in distinct]
    rewards = reward_model.score(conversations)
    return np.array([[rewards[distinct[row, text]] for text in texts] for row, texts in enumerate(answers)], dtype=float)


def best_of_n(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], reward_model: RewardModel, *, n: int, seed: int,
    max_new_tokens: int = 64, temperature: float = 1.0,
) -> list[str]:  # fmt: skip
    """The best of ``n`` sampled answers to each prompt by the reward model; n = 1 is plain sampling."""
    candidates = sample_candidates(
        model, tokenizer, prompts, reward_model, n=n, seed=seed, max_new_tokens=max_new_tokens, temperature=temperature
    )
    return candidates.texts(candidates.best(n))


def soft_best_of_n(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], reward_model: RewardModel, *, n: int, beta: float, seed: int,
    max_new_tokens: int = 64, temperature: float = 1.0,
) -> list[str]:  # fmt: skip
    """One of ``n`` sampled answers to each prompt, drawn ∝ exp(reward/β): between plain sampling and best-of-n."""
    _check_beta(beta)  # before anything is sampled
    candidates = sample_candidates(
        model, tokenizer, prompts, reward_model, n=n, seed=seed, max_new_tokens=max_new_tokens, temperature=temperature
    )
    return candidates.texts(candidates.soft_best(n, beta, seed))


def kl_bound(n: int) -> float:
    """Upper bound of KL(best-of-n ‖ policy) for each prompt, nats: log n − (n − 1)/n."""
    if n < 1:
        raise InputError(f"n is {n}", where="best-of-n", fix="give 1 or more answers")
    return math.log(n) - (n - 1) / n


def guided_logps(logps: Sequence[float], rewards: Sequence[float], beta: float) -> list[float]:
    """Log-probabilities of an item's options under π·exp(r/β), nats, up to a constant shared by the item's options.

    Args: logps of the options under the policy (nats) and their rewards (logits); β > 0, and the larger, the closer to π.
    """
    _check_beta(beta)
    return [logp + reward / beta for logp, reward in zip(logps, rewards, strict=True)]


def _check_n(n: int, sampled: int) -> None:
    if not 1 <= n <= sampled:
        raise InputError(f"the best of {n} answers, but {sampled} were sampled", where="best-of-n", fix="sample more")


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise InputError(f"beta is {beta}", where="reward guidance", fix="give a number greater than 0")
