"""From a reward to the probability that an answer is fair, and how far that probability can be believed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

MIN_PER_BIN = 10  # a bin with fewer texts says nothing about its share of fair ones
_RESAMPLES = 1000
_AT_ONCE = 50  # resamples in memory, each with a count per cluster
_FOLDS = 5


def fit_calibration(
    reward_chosen: np.ndarray, reward_rejected: np.ndarray, *, threshold_at_zero: bool = False
) -> dict[str, Any] | None:
    """Threshold t and temperature T of ``P(fair) = 1 / (1 + exp(-(reward - t) / T))`` (Platt, 1999).

    One-dimensional logistic regression over held-out pairs: the chosen answers stand for fair, the rejected
    ones for unfair. On standardised rewards with scikit-learn's default penalty, so that T stays above 0
    where the two are perfectly apart.

    Args:
        threshold_at_zero: keep t at 0 and fit T alone, for a model whose last layer has no bias that could hold t.

    Returns: ``threshold, temperature`` (reward units), ``n_pairs``, ``brier`` (mean squared error of the
    probability on the same pairs, 0..1, lower is better; .25 = knows nothing; flattering, because fitted there:
    :func:`cross_fitted_report` is not). With ``threshold_at_zero`` also what the free fit would be:
    ``free_threshold, free_temperature, free_brier``. None if higher rewards are not fairer there.
    """
    rewards, fair = _stacked(reward_chosen, reward_rejected)
    if not len(reward_chosen) or not len(reward_rejected) or not rewards.std() > 0:
        return None
    free = _logistic(rewards, fair, with_threshold=True)
    found = _logistic(rewards, fair, with_threshold=False) if threshold_at_zero else free
    if found is None or free is None:
        logger.warning("not calibrated: on the held-out pairs a higher reward does not mean a fairer answer")
        return None
    made = {**found, "n_pairs": len(reward_chosen), "brier": _brier(probability(rewards, found), fair)}
    if threshold_at_zero:
        made |= {f"free_{name}": value for name, value in free.items()}
        made["free_brier"] = _brier(probability(rewards, free), fair)
    return made


def _stacked(reward_chosen: np.ndarray, reward_rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rewards = np.concatenate([np.asarray(reward_chosen, dtype=float), np.asarray(reward_rejected, dtype=float)])
    return rewards, np.repeat([1, 0], [len(reward_chosen), len(reward_rejected)])


def _logistic(rewards: np.ndarray, fair: np.ndarray, *, with_threshold: bool) -> dict[str, float] | None:
    from sklearn.linear_model import LogisticRegression

    centre, spread = rewards.mean() if with_threshold else 0.0, rewards.std()
    if not spread > 0:
        return None
    model = LogisticRegression(fit_intercept=with_threshold).fit(((rewards - centre) / spread)[:, None], fair)
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        return None
    intercept = float(model.intercept_[0]) if with_threshold else 0.0
    return {"threshold": float(centre - spread * intercept / slope), "temperature": float(spread / slope)}


def probability(rewards: np.ndarray, calibration: Mapping[str, Any] | None) -> np.ndarray:
    """P(fair) of rewards (n,), in 0..1; without a calibration t = 0 and T = 1, which is no probability of
    anything."""
    from scipy.special import expit

    threshold, temperature = 0.0, 1.0
    if calibration is not None:
        threshold, temperature = float(calibration["threshold"]), float(calibration["temperature"])
    return np.asarray(expit((np.asarray(rewards, dtype=float) - threshold) / temperature))


def calibration_report(
    probabilities: np.ndarray, fair: np.ndarray, clusters: Sequence[str], *, bins: int = 10, seed: int = 0
) -> dict[str, Any]:
    """How well stated probabilities match the share of fair texts. Pure: arrays in, a dict of plain numbers out.

    Bins hold equal shares of the texts (edges are quantiles, as in scikit-learn's ``calibration_curve``; equal
    probabilities share a bin, so the order of the texts does not matter); with fewer than ``MIN_PER_BIN`` texts a
    bin there are fewer bins.

    The ECE is biased upwards where a model is well calibrated (Roelofs et al., 2022): the noise in a bin's share
    counts as error. Hence beside it ``rms_debiased``, the root of the debiased squared error of Kumar, Liang & Ma
    (2019), an interval by the basic bootstrap over clusters, which takes the estimate's own bias off (it is widened
    to contain the estimate), and ``ece_of_calibrated``, the 95 % quantile of the ECE that a perfectly calibrated
    model with the same probabilities shows by chance (Bröcker & Smith, 2007): no bootstrap covers 0, so up to there
    the interval starts at 0. In simulations with a known truth it covers that in about nine of ten runs or more (the
    slow test of it).

    Args: P(fair) (n,) in 0..1, whether fair (n,) of 0/1, a cluster per text.
    Returns: ``n, n_clusters, bins`` (used); ``ece, ece_low, ece_high, ece_of_calibrated, rms_debiased`` (0..1, 0 =
    calibrated); ``brier`` (mean squared error), ``log_loss`` (nats); ``reliability``: a dict per bin with ``low,
    high`` (its smallest and largest probability), ``n, mean_probability, observed`` (share of fair texts),
    ``observed_low, observed_high`` (Wilson, 95 %, texts taken as independent). What is undefined is NaN, and
    ``reason`` says why (None if all is defined).
    Raises: ValueError if lengths differ or a value is not in range.
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(fair, dtype=float)
    if not len(p) == len(y) == len(clusters) or p.ndim != 1:
        raise ValueError(f"{len(p)} probabilities, {len(y)} labels and {len(clusters)} clusters")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise ValueError("a probability is not in 0..1, or a label is not 0 or 1")
    names, cluster_of = np.unique(np.asarray(list(clusters), dtype=str), return_inverse=True)
    used = min(bins, len(p) // MIN_PER_BIN)
    found: dict[str, Any] = {
        "n": len(p), "n_clusters": len(names), "bins": max(used, 0), "ece": math.nan, "ece_low": math.nan,
        "ece_high": math.nan, "ece_of_calibrated": math.nan, "rms_debiased": math.nan, "brier": math.nan,
        "log_loss": math.nan, "reliability": [], "reason": None,
    }  # fmt: skip
    if len(p):
        from sklearn.metrics import log_loss

        found |= {"brier": _brier(p, y), "log_loss": float(log_loss(y, p, labels=[0, 1]))}
    if used < 1:
        return {**found, "reason": f"{len(p)} texts: the calibration error needs at least {MIN_PER_BIN}"}
    edges = np.percentile(p, np.linspace(0, 100, used + 1))
    _, bin_of = np.unique(np.searchsorted(edges[1:-1], p), return_inverse=True)  # ties may leave a bin empty
    found["bins"] = int(bin_of.max()) + 1
    # (cluster, bin, [n, sum of p, sum of y]): a resample of clusters is then a product with their counts
    sums = np.zeros((len(names), found["bins"], 3))
    for place, value in enumerate((np.ones_like(p), p, y)):
        np.add.at(sums[:, :, place], (cluster_of, bin_of), value)
    found["ece"] = float(_ece(sums.sum(axis=0)))
    found["rms_debiased"] = _rms_debiased(sums.sum(axis=0))
    found["reliability"] = [_bin(p[bin_of == place], y[bin_of == place]) for place in range(found["bins"])]
    rng = np.random.default_rng(seed)
    spread = np.sqrt(np.bincount(bin_of, p * (1 - p)))  # of a bin's sum of labels, were each fair with its probability
    chance = np.abs(rng.normal(size=(_RESAMPLES, found["bins"])) * spread).sum(axis=1) / len(p)
    found["ece_of_calibrated"] = float(np.quantile(chance, 0.95))
    if len(names) < MIN_PER_BIN:
        return {**found, "reason": f"{len(names)} clusters: an interval needs at least {MIN_PER_BIN}"}
    even = np.full(len(names), 1 / len(names))
    draws = (rng.multinomial(len(names), even, size=_AT_ONCE) for _ in range(_RESAMPLES // _AT_ONCE))
    resampled = np.concatenate([_ece(np.tensordot(counts, sums, axes=1)) for counts in draws])
    lower, upper = np.quantile(resampled, [0.025, 0.975])
    by_chance = found["ece"] <= found["ece_of_calibrated"]
    found["ece_low"] = 0.0 if by_chance else float(np.clip(2 * found["ece"] - upper, 0.0, found["ece"]))
    found["ece_high"] = float(np.clip(2 * found["ece"] - lower, found["ece"], 1.0))
    return found


def _brier(p: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((p - y) ** 2))


def _ece(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error from (…, bin, [n, sum of p, sum of y])."""
    return np.asarray(np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1) / sums[..., 0].sum(axis=-1))


def _rms_debiased(sums: np.ndarray) -> float:
    """Kumar, Liang & Ma (2019), definition 5.2: from each bin's squared gap the variance of its share is taken off."""
    n = sums[:, 0]
    if (n < 2).any():
        return math.nan
    mean, share = sums[:, 1] / n, sums[:, 2] / n
    squared = (n / n.sum()) @ ((mean - share) ** 2 - share * (1 - share) / (n - 1))
    return float(np.sqrt(max(squared, 0.0)))


def _bin(p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from scipy.stats import binomtest

    interval = binomtest(int(y.sum()), len(y)).proportion_ci(method="wilson")
    return {
        "low": float(p.min()), "high": float(p.max()), "n": len(p), "mean_probability": float(p.mean()),
        "observed": float(y.mean()), "observed_low": float(interval.low), "observed_high": float(interval.high),
    }  # fmt: skip


def cross_fitted_report(
    reward_chosen: np.ndarray,
    reward_rejected: np.ndarray,
    clusters: Sequence[str],
    *,
    threshold_at_zero: bool = False,
    bins: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibration judged on clusters that it was not fitted on: k-fold by cluster, both sides of a pair together.

    Args: rewards of each pair's sides (n,), a cluster per pair; the rest as in :func:`fit_calibration` and
        :func:`calibration_report`.
    Returns: ``folds`` (0 if there are fewer than two clusters), ``folds_without_fit`` (there a higher reward was not fairer;
    P = .5 stands for "knows nothing"), and the two reports ``before`` (reward squashed with t = 0, T = 1) and ``after``.
    """
    from sklearn.model_selection import GroupKFold

    rewards, fair = _stacked(reward_chosen, reward_rejected)
    both = [*clusters, *clusters]
    folds = min(_FOLDS, len(set(clusters)))
    before = calibration_report(probability(rewards, None), fair, both, bins=bins, seed=seed)
    if folds < 2:
        none = calibration_report(np.zeros(0), np.zeros(0), [], bins=bins)
        none["reason"] = f"{len(set(clusters))} clusters: held-out calibration needs at least 2"
        return {"folds": 0, "folds_without_fit": 0, "before": before, "after": none}
    stated, without_fit = np.full(len(rewards), 0.5), 0
    for fitted, judged in GroupKFold(n_splits=folds).split(rewards, fair, groups=both):
        calibration = _logistic(rewards[fitted], fair[fitted], with_threshold=not threshold_at_zero)
        if calibration is None:
            without_fit += 1
        else:
            stated[judged] = probability(rewards[judged], calibration)
    after = calibration_report(stated, fair, both, bins=bins, seed=seed)
    return {"folds": folds, "folds_without_fit": without_fit, "before": before, "after": after}
