"""Intervals of any statistic of records: leave out groups of item clusters, compute it again.

For a benchmark's own number (StereoSet's score is a mean over target terms, BBQ's a ratio of counts) no formula of a
standard error is at hand. The jackknife only ever leaves rows out, so no summary meets an item twice, as it would in a
bootstrap; and 30 recomputations are few enough for tens of thousands of records.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.evaluation.statistics.interval import NAN, Interval

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array

GROUPS = 30
_ALL_ALONE = 60  # up to so many clusters each is a group of its own


def cluster_groups(clusters: Sequence[str], *, random_state: int = 0) -> dict[str, int]:
    """Cluster name -> group, groups of nearly equal numbers of clusters; the same names give the same groups.

    The draw depends on the set of names only, so that two models scored on the same items are left out alike (pairing).
    """
    names = sorted(set(map(str, clusters)))
    if len(names) <= _ALL_ALONE:
        return {name: i for i, name in enumerate(names)}
    seed = zlib.crc32("\x1f".join(names).encode("utf-8", "surrogatepass"))
    order = np.random.default_rng([random_state, seed]).permutation(len(names))
    return {names[which]: place % GROUPS for place, which in enumerate(order)}


@dataclass(frozen=True)
class Jackknife:
    """A statistic and its value without each group (G,): two of the same groups can be subtracted, pairing kept."""

    value: float
    without: Array
    reason: str = ""

    def interval(self, confidence: float = 0.95) -> Interval:
        """value +- t(G - 1) * SE, SE^2 = (G - 1)/G * sum (without_g - mean)^2.

        Source: Kott 2001, J. Off. Stat. 17 (delete-a-group jackknife); with one cluster a group it is the delete-one
        jackknife.
        """
        from scipy.special import stdtrit

        se = self.standard_error
        if not math.isfinite(se):
            return Interval(self.value, reason=self.undefined)
        half = float(stdtrit(self.df, 0.5 + confidence / 2)) * se
        return Interval(self.value, self.value - half, self.value + half, se)

    @property
    def df(self) -> int:
        return len(self.without) - 1

    @property
    def undefined(self) -> str:
        if self.reason:
            return self.reason
        if len(self.without) < 2:
            return "one item cluster: no variance between clusters can be estimated"
        if not math.isfinite(self.value):
            return "undefined for these records"
        if not np.isfinite(self.without).all():
            return "too few items: without some of the clusters the number is not defined"
        return ""

    @property
    def standard_error(self) -> float:
        if self.undefined:
            return NAN
        n = len(self.without)
        return math.sqrt((n - 1) / n * float(((self.without - self.without.mean()) ** 2).sum()))

    def p_value(self) -> float:
        """Two-sided, of the statistic being 0; NaN where the standard error is undefined."""
        from scipy.special import stdtr

        se = self.standard_error
        if not math.isfinite(se):
            return NAN
        if se == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.df, -abs(self.value) / se))

    def map(self, function: Callable[[Any], Any]) -> Jackknife:
        return Jackknife(float(function(self.value)), np.array([function(x) for x in self.without]), self.reason)

    def minus(self, other: Jackknife) -> Jackknife:
        return Jackknife(self.value - other.value, self.without - other.without, self.reason or other.reason)


def jackknife(records: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], *, random_state: int = 0) -> Jackknife:
    """``statistic`` of all ``records`` and without each group of their ``cluster``s."""
    clusters = records["cluster"].astype(str).to_numpy()
    groups = cluster_groups(clusters.tolist(), random_state=random_state)
    slot = np.array([groups[name] for name in clusters], dtype=int)
    n = len(set(groups.values()))
    without = [statistic(records[slot != g]) for g in range(n)] if n > 1 else []
    return Jackknife(float(statistic(records)), np.array(without, dtype=float))
