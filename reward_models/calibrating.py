"""From a reward to the probability that an answer is fair."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def fit_calibration(reward_chosen: np.ndarray, reward_rejected: np.ndarray) -> dict[str, Any] | None:
    """Threshold t and temperature T of ``P(fair) = 1 / (1 + exp(-(reward - t) / T))`` (Platt, 1999).

    One-dimensional logistic regression over held-out pairs: the chosen answers stand for fair, the rejected
    ones for unfair. On standardised rewards with scikit-learn's default penalty, so that T stays above 0
    where the two are perfectly apart.

    Returns: ``threshold, temperature`` (reward units), ``n_pairs``, ``brier`` (mean squared error of the
    probability on the same pairs, 0..1, lower is better; .25 = knows nothing); None if higher rewards are not
    fairer there.
    """
    from sklearn.linear_model import LogisticRegression

    rewards = np.concatenate([reward_chosen, reward_rejected]).astype(float)
    fair = np.repeat([1, 0], [len(reward_chosen), len(reward_rejected)])
    centre, spread = rewards.mean(), rewards.std()
    if not len(reward_chosen) or not len(reward_rejected) or not spread > 0:
        return None
    model = LogisticRegression().fit(((rewards - centre) / spread)[:, None], fair)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        logger.warning("not calibrated: on the held-out pairs a higher reward does not mean a fairer answer")
        return None
    threshold, temperature = float(centre - spread * intercept / slope), float(spread / slope)
    found = probability(rewards, {"threshold": threshold, "temperature": temperature})
    return {
        "threshold": threshold,
        "temperature": temperature,
        "n_pairs": len(reward_chosen),
        "brier": float(np.mean((found - fair) ** 2)),
    }


def probability(rewards: np.ndarray, calibration: dict[str, Any] | None) -> np.ndarray:
    """P(fair) of rewards (n,), in 0..1; without a calibration t = 0 and T = 1, which is no probability of
    anything."""
    from scipy.special import expit

    threshold, temperature = 0.0, 1.0
    if calibration is not None:
        threshold, temperature = float(calibration["threshold"]), float(calibration["temperature"])
    return np.asarray(expit((np.asarray(rewards, dtype=float) - threshold) / temperature))
