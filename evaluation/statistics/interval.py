"""Intervals for crossed data: the same item clusters scored by every seed (or base), all arms paired.

Why not the plain percentile bootstrap: three to five training seeds. Resampling n units understates their
variance by (n - 1)/n, the percentile of three seeds cannot leave their range, and crossing rows with clusters
counts the residual three times. So the hierarchical bootstrap is used for what it does well, the joint covariance
of every arm by level with pairing kept, and the shape comes from t. The choice and its simulated coverage:
docs/decisions/0003-interval-for-retention.md.

Notation: Q quantities (such as D0 and D_c), R rows (seeds of one base, or several bases), K item clusters,
B resamples.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """A number with its interval and standard error. Undefined parts are NaN and ``reason`` says why."""

    value: float
    low: float = NAN
    high: float = NAN
    se: float = NAN
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: NaN and infinities become None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high, "se": self.se}
        return {k: (v if math.isfinite(v) else None) for k, v in numbers.items()} | {"reason": self.reason}


@dataclass(frozen=True)
class Estimate:
    """An estimate with its paired bootstrap deviations, one array (B,) per level, already scaled to be unbiased.

    ``n_rows`` or ``n_clusters`` is infinite where that level is not random (an untaught policy has no training
    seed) and 1 where the level is random but was seen once, which leaves the standard error undefined.
    """

    value: float
    rows: Array
    clusters: Array
    both: Array
    n_rows: float
    n_clusters: float

    def levels(self) -> tuple[Array, Array, Array]:
        return self.rows, self.clusters, self.both


class Resampler:
    """Multinomial weights of rows and clusters; the same units always get the same draws (pairing across arms)."""

    def __init__(self, random_state: int, n_resamples: int) -> None:
        self.random_state, self.n_resamples = random_state, n_resamples
        self._cache: dict[tuple[str, ...], Array] = {}

    def weights(self, level: str, units: Sequence[str]) -> Array:
        """(B, n) counts that sum to n. Seeded by the units' names, so that row order and other arms do not matter."""
        key = (level, *units)
        if key not in self._cache:
            name = zlib.crc32("\x1f".join(key).encode("utf-8", "surrogatepass"))
            rng = np.random.default_rng([self.random_state, name])
            n = len(units)
            self._cache[key] = rng.multinomial(n, np.full(n, 1 / n), size=self.n_resamples).astype(np.float64)
        return self._cache[key]

    def shares(self, clusters: Sequence[str], sizes_K: Array) -> Array:
        """(B, K) weights of clusters in the mean over items of each resample; computed once for the same clusters."""
        key = ("shares", *clusters, *(str(size) for size in sizes_K))
        if key not in self._cache:
            v_BK = self.weights("clusters", clusters) * sizes_K
            self._cache[key] = v_BK / v_BK.sum(axis=1, keepdims=True)
        return self._cache[key]


def crossed(
    values_QRK: Array, sizes_K: Array, rows: Sequence[str] | None, clusters: Sequence[str] | None, draws: Resampler
) -> list[Estimate]:
    """Estimates of the mean of each quantity over rows and items, with bootstrap deviations per level.

    Args: values_QRK: mean over the items of cluster k in row r, paired over quantities. sizes_K: items per cluster.
        rows, clusters: names of the units; None = this level is not random.
    The weights of one level are resampled with the other held (McCullagh 2000, Owen 2007: the "pigeonhole" bootstrap
    has the two crossed); the crossed draw minus both gives the residual level, which each single-level draw
    contains once, so that Var = rows + clusters - residual (the two-way ANOVA identity). Deviations are multiplied
    by sqrt(n / (n - 1)) because resampling n units understates their variance by that much.
    """
    n_quantities, n_rows, n_clusters = values_QRK.shape
    shares = sizes_K / sizes_K.sum()
    row_means_QR = values_QRK @ shares
    estimate_Q = row_means_QR.mean(axis=1)
    zero = np.zeros((draws.n_resamples, n_quantities))
    by_rows = by_clusters = by_both = zero
    if rows is not None and n_rows > 1:
        w_BR = draws.weights("rows", rows) / n_rows
        by_rows = w_BR @ row_means_QR.T - estimate_Q
    if clusters is not None and n_clusters > 1:
        v_BK = draws.shares(clusters, sizes_K)
        by_clusters = v_BK @ values_QRK.mean(axis=1).T - estimate_Q
        if rows is not None and n_rows > 1:
            # (QR,K) @ (K,B): the one big product, Q*R*K*B multiplications
            per_row_QRB = values_QRK.reshape(-1, n_clusters) @ v_BK.T
            per_row_QRB = per_row_QRB.reshape(n_quantities, n_rows, -1)
            crossed_BQ = np.einsum("br,qrb->bq", w_BR, per_row_QRB)
            by_both = crossed_BQ - estimate_Q - by_rows - by_clusters
    row_scale = math.sqrt(n_rows / (n_rows - 1)) if n_rows > 1 else 1.0
    n_effective = effective_number(sizes_K)
    cluster_scale = math.sqrt(n_effective / (n_effective - 1)) if n_clusters > 1 else 1.0
    return [
        Estimate(
            float(estimate_Q[q]), by_rows[:, q] * row_scale, by_clusters[:, q] * cluster_scale,
            by_both[:, q] * row_scale * cluster_scale,
            math.inf if rows is None else n_rows, math.inf if clusters is None else n_effective,
        )
        for q in range(n_quantities)
    ]  # fmt: skip


def effective_number(sizes_K: Array) -> float:
    """How many clusters of equal size are worth as much: (sum n)^2 / sum n^2 (Kish 1965, section 11.7); at least 2 of
    several.

    A mean over items weights clusters by their sizes. With K - 1 degrees of freedom the intervals of 20 clusters of 1 to 40
    items covered .932; with this number less one .95 (docs/statistics.md). K itself where clusters are of one size.
    """
    if len(sizes_K) == 1:
        return 1.0
    return max(float(sizes_K.sum() ** 2 / (sizes_K**2).sum()), 2.0)


def combine(*terms: tuple[float, Estimate]) -> Estimate:
    """The linear combination sum(a * x) of paired estimates; the scarcer level counts decide."""
    rows, clusters, both = (sum((a * x.levels()[i] for a, x in terms), np.zeros(1)) for i in range(3))
    return Estimate(
        sum(a * x.value for a, x in terms), rows, clusters, both,
        n_rows=min(x.n_rows for _, x in terms),
        n_clusters=min(x.n_clusters for _, x in terms),
    )  # fmt: skip


def undefined(*estimates: Estimate, row_name: str = "training seed") -> str:
    """Why a standard error of these is undefined; '' if it is defined."""
    if min(x.n_rows for x in estimates) == 1:
        return f"one {row_name}: no variance between {row_name}s can be estimated"
    if min(x.n_clusters for x in estimates) == 1:
        return "one item cluster: no variance between clusters can be estimated"
    return ""


def _total(v_rows: float, v_clusters: float, v_both: float) -> float:
    # Each single-level variance contains the residual and so bounds the total from below.
    return max(v_rows + v_clusters - v_both, v_rows, v_clusters, 0.0)


def half_width(p: float, v: tuple[float, float, float], n_rows: float, n_clusters: float) -> float:
    """t(p) * SE for variances ``v`` = (rows, clusters, residual) of a mean; monotone in p, continuous in v.

    t is the mean of Satterthwaite's (liberal where few rows dominate: .92) and Cochran's variance-weighted one
    (conservative: .98). Where rows differ no more than the residual makes them differ anyway (F below its median),
    their own variance is taken as 0: two degrees of freedom of pure noise would only widen the interval. The ramp
    from .4 to .6 avoids a jump. Coverage of this rule and its rivals: docs/decisions/0003.
    """
    from scipy.special import fdtrc, stdtrit

    v_rows, v_clusters, v_both = v
    if not math.isfinite(n_rows):
        return float(stdtrit(n_clusters - 1, p)) * math.sqrt(v_clusters) if math.isfinite(n_clusters) else 0.0
    if not math.isfinite(n_clusters):
        return float(stdtrit(n_rows - 1, p)) * math.sqrt(v_rows)
    total = _total(*v)
    if total <= 0:
        return 0.0
    df_rows, df_clusters = n_rows - 1, n_clusters - 1
    df_both = df_rows * df_clusters
    spread = v_rows**2 / df_rows + v_clusters**2 / df_clusters + v_both**2 / df_both
    df = max(total**2 / spread, 1.0)
    share = max(v_rows - v_both, 0.0) / total
    t_rows, t_clusters, t_welch = stdtrit([df_rows, df_clusters, df], p)
    crossed_width = (t_welch + share * t_rows + (1 - share) * t_clusters) / 2 * math.sqrt(total)
    chance = float(fdtrc(df_rows, df_both, v_rows / v_both)) if v_both > 0 else 0.0
    pooled = min(max((chance - 0.4) / 0.2, 0.0), 1.0)
    return float(pooled * t_clusters * math.sqrt(v_clusters) + (1 - pooled) * crossed_width)


def _variances(x: Estimate) -> tuple[float, float, float]:
    return tuple(float(np.mean(level**2)) for level in x.levels())  # type: ignore[return-value]


def standard_error(x: Estimate) -> float:
    return math.sqrt(_total(*_variances(x)))


def mean_interval(x: Estimate, confidence: float, row_name: str = "training seed") -> Interval:
    """value +- t * SE; NaN with a reason where a random level was seen once."""
    reason = undefined(x, row_name=row_name)
    if reason:
        return Interval(x.value, reason=reason)
    v = _variances(x)
    se = math.sqrt(_total(*v))
    half = half_width(0.5 + confidence / 2, v, x.n_rows, x.n_clusters)
    return Interval(x.value, x.value - half, x.value + half, se)


class Ratio:
    """numerator / denominator by Fieller's method: the set of rho whose L(rho) = numerator - rho * denominator
    is not significantly different from 0 (Fieller 1954; with :func:`half_width` at each rho)."""

    def __init__(self, numerator: Estimate, denominator: Estimate) -> None:
        self.numerator, self.denominator = numerator, denominator
        self.value = numerator.value / denominator.value
        self.n_rows = min(numerator.n_rows, denominator.n_rows)
        self.n_clusters = min(numerator.n_clusters, denominator.n_clusters)
        # second moments per level: (num^2, num*den, den^2); variances at any rho are then three multiplications
        self._moments = [
            (float(np.mean(n * n)), float(np.mean(n * d)), float(np.mean(d * d)))
            for n, d in zip(numerator.levels(), denominator.levels(), strict=True)
        ]

    def _at(self, rho: float) -> tuple[float, tuple[float, float, float]]:
        v = tuple(max(nn - 2 * rho * nd + rho * rho * dd, 0.0) for nn, nd, dd in self._moments)
        return self.numerator.value - rho * self.denominator.value, v  # type: ignore[return-value]

    def _outside(self, rho: float, p: float) -> float:
        gap, v = self._at(rho)
        return abs(gap) - half_width(p, v, self.n_rows, self.n_clusters)

    def covers(self, rho: float, confidence: float) -> bool:
        """Whether the interval at this confidence contains rho (no root finding: used by the simulations)."""
        return self._outside(rho, 0.5 + confidence / 2) <= 0

    def interval(self, confidence: float, row_name: str = "training seed") -> Interval:
        """Limits may be infinite where the denominator is not clearly different from 0 (the gate excludes that)."""
        reason = undefined(self.numerator, self.denominator, row_name=row_name)
        if reason:
            return Interval(self.value, reason=reason)
        _, v = self._at(self.value)
        se = math.sqrt(_total(*v)) / abs(self.denominator.value)
        p = 0.5 + confidence / 2
        low, high = (self._limit(sign, max(se, 1e-9), p) for sign in (-1.0, 1.0))
        return Interval(self.value, low, high, se)

    def _limit(self, sign: float, step: float, p: float) -> float:
        from scipy.optimize import brentq

        inside = self.value
        for _ in range(60):
            outside = self.value + sign * step
            if self._outside(outside, p) > 0:
                return float(brentq(self._outside, inside, outside, args=(p,), xtol=1e-10)) if (
                    self._outside(inside, p) <= 0
                ) else inside  # fmt: skip
            inside, step = outside, step * 2
        return sign * math.inf

    def p_value(self, rho: float, alternative: str) -> float:
        """One-sided: 'greater' tests R <= rho, 'less' tests R >= rho. Inverts the quantile that made the interval."""
        from scipy.optimize import brentq

        gap, v = self._at(rho)
        gap *= math.copysign(1.0, self.denominator.value) * (1 if alternative == "greater" else -1)
        if gap <= 0:
            return 1.0  # on the wrong side: no need of the exact value above one half
        floor = 1e-12
        if gap >= half_width(1 - floor, v, self.n_rows, self.n_clusters):
            return floor
        return float(brentq(lambda q: half_width(1 - q, v, self.n_rows, self.n_clusters) - gap, floor, 0.5))


def deviations_of_ratio(ratio: Ratio) -> Estimate:
    """The ratio as an estimate (first order): (num* - R den*) / den. For a ratio of ratios."""
    num, den = ratio.numerator, ratio.denominator
    rows, clusters, both = ((n - ratio.value * d) / den.value for n, d in zip(num.levels(), den.levels(), strict=True))
    return Estimate(ratio.value, rows, clusters, both, n_rows=ratio.n_rows, n_clusters=ratio.n_clusters)
