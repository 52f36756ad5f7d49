"""Bias by group: the worst group with an interval that knows it was chosen, and intersections of groups.

A record names its groups in ``groups``, joined by "|"; it counts for each of them. Means are over items, intervals over item
clusters. A group or intersection with too few clusters is "not estimable", with its counts: never 0, and never left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.statistics.interval import NAN, Interval, Resampler

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array

MIN_CLUSTERS = 10


@dataclass(frozen=True)
class GroupMean:
    """The mean of one group (or of one intersection: ``name`` joins its groups by " × ") with its simultaneous interval."""

    name: str
    mean: Interval
    n_items: int
    n_clusters: int

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "mean": self.mean.as_dict(), "n_items": self.n_items, "n_clusters": self.n_clusters}


@dataclass(frozen=True)
class WorstGroup:
    """``value``: the worst mean, with an interval of the worst *true* mean; ``name``: the group it was seen in, which with
    groups close to one another may be another one in truth. ``groups``: all of them, worst first, not estimable ones last.
    """

    name: str
    value: Interval
    groups: tuple[GroupMean, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value.as_dict(), "groups": [group.as_dict() for group in self.groups]}


def worst_group(
    records: pd.DataFrame, *, outcome: str, higher_is_worse: bool = True, by: str = "groups",
    min_clusters: int = MIN_CLUSTERS, confidence: float = 0.95, random_state: int = 0, n_resamples: int = 2000,
) -> WorstGroup:  # fmt: skip
    """The group with the largest (or, as for an accuracy, smallest) mean of ``outcome``; NaN values are left out.

    Args: by: a column whose entries name groups, several joined by "|".
    The largest of several noisy means is too large on average, and its own interval does not know that. So the intervals
    are simultaneous: item clusters are resampled, all groups together; c is the quantile of max_g |mean*_g - mean_g| / se_g,
    times t(K - 1) over the normal quantile for the scarcest group's K clusters; mean_g +- c * se_g holds for all groups at
    once, hence [max_g(mean_g - c se_g), max_g(mean_g + c se_g)] holds the worst true mean. Source: the single-step
    "max-t" of Westfall & Young 1993, chapter 2; Dudoit & van der Laan 2008, chapter 4.
    Raises: InputError if a column is missing; ConfigError if ``min_clusters`` is below 2.
    """
    members = _memberships(records, outcome, by)
    means = _simultaneous(members, min_clusters, confidence, random_state, n_resamples)
    sign = 1.0 if higher_is_worse else -1.0
    known = sorted((g for g in means if math.isfinite(g.mean.low)), key=lambda g: (-sign * g.mean.value, g.name))
    rest = tuple(sorted((g for g in means if not math.isfinite(g.mean.low)), key=lambda g: g.name))
    if not known:
        return WorstGroup("", Interval(NAN, reason=f"no group has {min_clusters} item clusters: not estimable"), rest)
    pick = max if higher_is_worse else min
    worst = known[0]
    value = Interval(worst.mean.value, pick(g.mean.low for g in known), pick(g.mean.high for g in known), worst.mean.se)
    return WorstGroup(worst.name, value, (*known, *rest))


def intersections(
    records: pd.DataFrame, *, outcome: str, axis_of: Mapping[str, str] | None = None, min_clusters: int = MIN_CLUSTERS,
    confidence: float = 0.95, random_state: int = 0, n_resamples: int = 2000,
) -> dict[str, tuple[GroupMean, ...]]:  # fmt: skip
    """Means of ``outcome`` where an item names one group on each of two axes: "gender × origin" -> its cells, by name.

    Args: axis_of: the axis of each group; None: read off the records whose ``axis`` is a single one that their groups belong
        to. A group that stands under several axes, or under none but combined ones, has no axis and is not crossed.
    An item that names two groups of one axis compares them with one another: it belongs to no cell of that axis. Cells
    of the full cross that hold no item, or fewer than ``min_clusters`` clusters, are there and "not estimable".
    """
    for column in ("axis", "groups", "cluster", outcome):
        _require(records, column)
    named = [_split(value) for value in records["groups"]]
    axes = dict(axis_of) if axis_of is not None else _axes(records, named)
    found: dict[str, tuple[GroupMean, ...]] = {}
    for first, second in combinations(sorted(set(axes.values())), 2):
        label, cells = f"{first} × {second}", _crossed_cells(records, outcome, named, axes, first, second)
        if cells.empty:
            continue
        means = {g.name: g for g in _simultaneous(cells, min_clusters, confidence, random_state, n_resamples)}
        names = [f"{a} × {b}" for a in sorted(set(cells["first"])) for b in sorted(set(cells["second"]))]
        absent = Interval(NAN, reason="not estimable: no items")
        found[label] = tuple(means.get(name, GroupMean(name, absent, 0, 0)) for name in names)
    return found


def _split(value: Any) -> list[str]:
    return [part for part in (value.split("|") if isinstance(value, str) else map(str, value)) if part]


def _require(records: pd.DataFrame, column: str) -> None:
    if column not in records.columns:
        raise InputError(f"the records lack the column {column!r}", where="records by group", fix="name an existing column")


def _memberships(records: pd.DataFrame, outcome: str, by: str) -> pd.DataFrame:
    """One row per record and group it names: name, value, cluster."""
    for column in (by, outcome, "cluster"):
        _require(records, column)
    table = records[[outcome, "cluster"]].rename(columns={outcome: "value"}).assign(name=records[by].map(_split))
    table = table.explode("name").dropna(subset=["name", "value"])
    return table.assign(cluster=table["cluster"].astype(str), name=table["name"].astype(str))


def _axes(records: pd.DataFrame, named: Sequence[Sequence[str]]) -> dict[str, str]:
    seen: dict[str, set[str]] = {}
    for axis, groups in zip(records["axis"].astype(str), named, strict=True):
        for group in groups:
            seen.setdefault(group, set()).add(axis)
    crossed = {axis for axis in set(records["axis"].astype(str)) if "_x_" in axis.lower() or "×" in axis or "+" in axis}
    single = {group: axes - crossed for group, axes in seen.items()}
    return {group: next(iter(axes)) for group, axes in single.items() if len(axes) == 1}


def _crossed_cells(
    records: pd.DataFrame, outcome: str, named: Sequence[Sequence[str]], axes: Mapping[str, str], first: str, second: str
) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for groups, value, cluster in zip(named, records[outcome], records["cluster"].astype(str), strict=True):
        here = [[g for g in groups if axes.get(g) == axis] for axis in (first, second)]
        if all(len(one) == 1 for one in here) and value == value:
            rows.append((here[0][0], here[1][0], f"{here[0][0]} × {here[1][0]}", float(value), cluster))
    return pd.DataFrame(rows, columns=["first", "second", "name", "value", "cluster"])


def _simultaneous(
    members: pd.DataFrame, min_clusters: int, confidence: float, random_state: int, n_resamples: int
) -> list[GroupMean]:
    from fairlearn.metrics import MetricFrame, count
    from scipy.special import ndtri, stdtrit

    if min_clusters < 2:
        raise ConfigError(f"min_clusters {min_clusters}", where="groups", fix="give 2 or more: one cluster has no variance")
    if members.empty:
        return []
    values = members["value"].to_numpy(dtype=float)
    frame = MetricFrame(
        metrics={"mean": lambda y, _: float(np.mean(y)), "n": count, "clusters": lambda _, c: len(set(c))},
        y_true=values, y_pred=members["cluster"].to_numpy(), sensitive_features=members["name"].to_numpy(),
    ).by_group  # fmt: skip
    names = [str(name) for name in frame.index]
    clusters, slot = np.unique(members["cluster"].to_numpy(dtype=str), return_inverse=True)
    which = np.searchsorted(names, members["name"].to_numpy(dtype=str))
    shape = (len(names), len(clusters))
    totals_GK, counts_GK = np.zeros(shape), np.zeros(shape)
    np.add.at(totals_GK, (which, slot), values)
    np.add.at(counts_GK, (which, slot), 1.0)
    means_G, k_G = frame["mean"].to_numpy(dtype=float), frame["clusters"].to_numpy(dtype=int)
    enough = k_G >= min_clusters
    # linearised: a resample may leave a small group without any cluster, where the ratio itself would have no value
    residual_GK: Array = (totals_GK - means_G[:, None] * counts_GK) / counts_GK.sum(axis=1, keepdims=True)
    se_G = np.sqrt(k_G / np.maximum(k_G - 1, 1) * (residual_GK**2).sum(axis=1))
    c = 0.0
    used = enough & (se_G > 0)
    if used.any():
        weights_BK = Resampler(random_state, n_resamples).weights("clusters", tuple(clusters.tolist()))
        spread = np.sqrt((residual_GK[used] ** 2).sum(axis=1))
        largest = (np.abs(weights_BK @ residual_GK[used].T) / spread).max(axis=1)
        p = 0.5 + confidence / 2
        small = float(stdtrit(int(k_G[used].min()) - 1, p)) / float(ndtri(p))
        c = float(np.quantile(largest, confidence)) * small
    found = []
    for i, name in enumerate(names):
        if enough[i]:
            value, half = float(means_G[i]), float(c * se_G[i])
            mean = Interval(value, value - half, value + half, float(se_G[i]))
        else:
            mean = Interval(NAN, reason=f"not estimable: {k_G[i]} of the {min_clusters} item clusters it needs")
        found.append(GroupMean(name, mean, int(frame["n"].iloc[i]), int(k_G[i])))
    return found
