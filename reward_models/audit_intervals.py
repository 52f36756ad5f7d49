"""Intervals of the reward-model audit: means over rows, resampled by whole clusters.

Rows of one template, scenario or sentence are no independent rows. The standard error is a bootstrap over clusters and the
shape is t's, because templates are few (docs/decisions/0003-interval-for-retention.md says why not the percentiles).
What has no interval is None with a reason, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
ONE_CLUSTER = "one cluster: no variance between clusters can be estimated"
NO_ROWS = "no rows"
NO_SCATTER = "the same in all clusters: Wilson's interval over clusters"


def cluster_mean(
    values: Sequence[float] | NDArray[Any],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    share: bool = True,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Mean of ``values`` over rows with a 95 % interval over clusters.

    Args:
        values: (n,) one number per row.
        clusters: (n,) the cluster of each row.
        share: the values are shares of 0..1: limits are cut there, and where all values are 0, or all 1 (a bootstrap
            would claim to be certain), Wilson's interval with n = clusters is given instead.

    Returns: ``n, clusters, value, low, high, reason``; None where undefined, with the reason.
    """
    found = np.asarray(values, dtype=float)
    if not len(found):
        return {"n": 0, "clusters": 0, "value": None, "low": None, "high": None, "reason": NO_ROWS}
    sums, sizes = _per_cluster(found, clusters)
    n_clusters, mean = len(sizes), float(found.mean())
    entry: dict[str, Any] = {"n": len(found), "clusters": n_clusters, "value": mean, "low": None, "high": None, "reason": ""}
    if n_clusters == 1:
        return entry | {"reason": ONE_CLUSTER}
    if share and np.ptp(found) == 0 and mean in (0.0, 1.0):
        from scipy.stats import binomtest

        wilson = binomtest(round(mean * n_clusters), n_clusters).proportion_ci(method="wilson")
        return entry | {"low": float(wilson.low), "high": float(wilson.high), "reason": NO_SCATTER}
    weights = _draws(n_clusters, seed, resamples)
    drawn = (weights @ sums) / (weights @ sizes)
    half = _half_width(drawn, n_clusters)
    low, high = mean - half, mean + half
    return entry | {"low": max(low, 0.0) if share else low, "high": min(high, 1.0) if share else high}


def _per_cluster(values: Array, clusters: Sequence[str]) -> tuple[Array, Array]:
    _, number = np.unique(np.asarray(list(clusters), dtype=object).astype(str), return_inverse=True)
    return np.bincount(number, weights=values).astype(np.float64), np.bincount(number).astype(np.float64)


def _draws(n: int, seed: int, resamples: int) -> Array:
    return np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def _half_width(drawn: Array, n_clusters: int) -> float:
    from scipy.stats import t

    # resampling n units understates their variance by (n - 1) / n
    error = float(drawn.std()) * math.sqrt(n_clusters / (n_clusters - 1))
    return float(t.ppf(0.975, n_clusters - 1)) * error


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given; NaN stays NaN and is not counted as a test."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    running = 0.0
    for rank, place in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        running = max(running, (len(tested) - rank) * p[place])
        adjusted[place] = min(running, 1.0)
    return adjusted.tolist()


def paired_t(differences: Sequence[float] | NDArray[Any], clusters: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Mean paired difference with its interval over clusters, and a two-sided p-value of the t-test over cluster means.

    Returns: as :func:`cluster_mean` and ``p`` (None with fewer than two clusters; 0 for a difference without scatter).
    """
    entry = cluster_mean(differences, clusters, seed=seed, share=False)
    if entry["low"] is None:
        return entry | {"p": None}
    from scipy.stats import ttest_1samp

    sums, sizes = _per_cluster(np.asarray(differences, dtype=float), clusters)
    means = sums / sizes
    if np.ptp(means) == 0:
        return entry | {"p": 1.0 if means[0] == 0 else 0.0}
    return entry | {"p": float(ttest_1samp(means, 0.0).pvalue)}
