"""Two methods at the same utility: a broken model looks fair because it answers at random.

A front is one method at several settings (the beta of a sweep, the strength of a dial, an amount of noise): each point has a
bias and a utility, and between points the bias is interpolated over the utility. All points of both fronts are resampled
together, item clusters of the bias and of the utility each, so that pairing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError, unknown_name
from teachfair.evaluation.statistics.guards import RAILS, Rail, level_interval
from teachfair.evaluation.statistics.interval import NAN, Interval, Resampler
from teachfair.evaluation.statistics.jackknife import Jackknife, cluster_groups, jackknife

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array

_LOST_DRAWS = 0.05  # more draws than this without a common utility: no interval


@dataclass(frozen=True)
class Front:
    """P points: ``bias_P`` (higher is more biased; if ``parity``, signed, and its distance from 0 is the bias) and
    ``utility_P`` (higher is better), with their resampled values (B, P).

    ``items``: names of the clusters of bias and of utility; two fronts are compared on the same ones only. ``points``: each
    point's bias and utility alone, with intervals. ``df``: degrees of freedom of an interval. ``undefined``: why there is
    none, "" if there is.
    """

    settings_P: tuple[str | float, ...]
    bias_P: Array
    utility_P: Array
    bias_BP: Array
    utility_BP: Array
    utility_name: str
    items: tuple[tuple[str, ...], tuple[str, ...]]
    confidence: float
    df: int
    parity: bool = False
    undefined: str = ""
    points: tuple[FrontPoint, ...] = field(default=(), repr=False)

    @property
    def line(self) -> list[int]:
        """The places of the points between which is interpolated, by rising utility; of several of the same utility the
        least biased one: the others are not what the method can do there."""
        distance_P = np.abs(self.bias_P) if self.parity else self.bias_P
        order = np.lexsort((distance_P, self.utility_P))
        first_of_its_kind = np.append(True, np.diff(self.utility_P[order]) > 0)
        return [int(place) for place in order[first_of_its_kind]]


@dataclass(frozen=True)
class FrontPoint:
    """One setting: ``bias`` in the outcome's unit, 0 or above where parity is the target; ``utility`` as its guard-rail has
    it (of bits per byte lower is better)."""

    name: str
    bias: Interval
    utility: Interval

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "bias": self.bias.as_dict(), "utility": self.utility.as_dict()}


@dataclass(frozen=True)
class EqualUtility:
    """``difference``: bias of the first minus the second front at the same utility, averaged over ``at``; below 0 = the
    first is fairer. ``by_utility``: (utility, bias of the first, of the second, difference). ``low``, ``high``: the
    common range.
    """

    utility: str
    difference: Interval
    low: float
    high: float
    by_utility: tuple[tuple[float, float, float, Interval], ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "utility": self.utility, "difference": self.difference.as_dict(),
            "low": self.low if math.isfinite(self.low) else None, "high": self.high if math.isfinite(self.high) else None,
            "by_utility": [
                {"utility": u, "first": a, "second": b, "difference": d.as_dict()} for u, a, b, d in self.by_utility
            ],
        }  # fmt: skip


def rail_of_utility(name: str) -> Rail:
    """The guard-rail whose value is the utility. Raises: ConfigError if there is none of that name and one direction."""
    rails = {rail.name: rail for rail in RAILS if not rail.two_sided}
    if name not in rails:
        raise unknown_name("utility", name, rails)
    return rails[name]


def front_of(
    points: Sequence[tuple[str | float, pd.DataFrame]], *, condition: str | None = "ambiguous", outcome: str = "margin_nats",
    benchmark: str | None = None, parity: bool = False, utility: str = "disambiguated accuracy", confidence: float = 0.95,
    bias: Callable[[pd.DataFrame], float] | None = None, random_state: int = 0, n_resamples: int = 2000,
) -> Front:  # fmt: skip
    """The front of a method from (setting, records) of each point, all on the same items.

    Args: condition: of the records that the bias is of; None: all of the benchmark's. bias: a statistic of them, 0 where
        there is no bias; None: the mean ``outcome``. parity: the bias is its distance from 0. utility: the name of a
        guard-rail of one direction; where lower is better its negative is the utility.
    Draws: those of a bootstrap of cluster groups, in which each group counts by its influence as the jackknife has it
        (``jackknife.py``), since no statistic may meet an item twice; their variance is the jackknife's. Bias and utility
        share the draws where they are of the same clusters.
    Raises: InputError if a point lacks the outcome or the utility's condition, or holds other items than the first.
    """
    rail = rail_of_utility(utility)
    if not points:
        raise InputError("a front without points", where="front_of", fix="give the records of at least one setting")

    def mean_outcome(rows: pd.DataFrame) -> float:
        return float(rows[outcome].to_numpy(dtype=float, na_value=np.nan).mean()) if outcome in rows.columns else NAN

    def usefulness(rows: pd.DataFrame) -> float:
        if any(column not in rows.columns for column in rail.columns):
            return NAN
        values, weights = rail.per_record(rows)
        return float(values.sum() / weights.sum())

    estimates: list[tuple[Jackknife, Jackknife]] = []
    levels: list[Interval] = []
    names: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    for setting, records in points:
        here = records if benchmark is None else records[records["benchmark"] == benchmark]
        if condition is not None:
            here = here[here["condition"] == condition]
        useful = records[records["condition"] == rail.condition]
        if benchmark is not None and (useful["benchmark"] == benchmark).any():
            useful = useful[useful["benchmark"] == benchmark]
        pair = (
            _estimate(here, bias or mean_outcome, outcome if bias is None else "the bias", setting),
            _estimate(useful, usefulness, rail.name, setting),
        )
        mine = (_clusters(here), _clusters(useful))
        names = names or mine
        if mine != names:
            raise InputError(
                "two points of a front hold different item clusters", where=f"setting {setting}",
                fix="score every point on the same items",
            )  # fmt: skip
        estimates.append(pair)
        values, weights = rail.per_record(useful)
        _, slots = np.unique(useful["cluster"].astype(str).to_numpy(dtype=str), return_inverse=True)
        sums = np.stack([np.bincount(slots, weights=x) for x in (values, weights)], axis=1).astype(np.float64)
        levels.append(level_interval(sums, confidence, share=rail.unit == "share"))
    assert names is not None
    draws = Resampler(random_state, n_resamples)
    counts = [_group_weights(clusters, draws) for clusters in names]
    sign = 1.0 if rail.higher_is_better else -1.0
    bias_BP, utility_BP = (
        np.stack([_draws(pair[side], counts[side]) for pair in estimates], axis=1) for side in (0, 1)
    )
    return Front(
        tuple(setting for setting, _ in points), np.array([pair[0].value for pair in estimates]),
        sign * np.array([pair[1].value for pair in estimates]), bias_BP, sign * utility_BP, utility, names, confidence,
        df=min(count.shape[1] for count in counts) - 1, parity=parity,
        undefined=next((one.undefined for pair in estimates for one in pair if one.undefined), ""),
        points=tuple(
            FrontPoint(str(setting), _distance(pair[0], parity).interval(confidence), level)
            for (setting, _), pair, level in zip(points, estimates, levels, strict=True)
        ),
    )  # fmt: skip


def at_equal_utility(first: Front, second: Front, *, at: Sequence[float] | None = None) -> EqualUtility:
    """Bias of ``first`` minus bias of ``second`` at the same utility.

    Args: at: utilities to compare at; None: those of the points of either front within the range that both reach (of a front
        with one point, that point's). A first front of one point that is more useful than every point of the second is held
        against the second's most useful point: it gave up nothing that the other kept.
    Returns: NaN with a reason where the ranges do not meet, or hardly meet in the resamples. Source of the idea:
        PROTOCOL; the interpolation is piecewise linear in the points ordered by utility. Where parity is the target the
        signed bias is interpolated, so that a front that overshoots passes through parity.
    Raises: InputError if the fronts were made of different items or utilities.
    """
    from scipy.special import stdtrit

    if first.items != second.items or first.utility_name != second.utility_name:
        raise InputError(
            "two fronts of different items or utilities", where=f"{first.utility_name} and {second.utility_name}",
            fix="make both from records of the same items, with the same utility",
        )  # fmt: skip
    top = float(second.utility_P.max())
    low, high = max(first.utility_P.min(), second.utility_P.min()), min(first.utility_P.max(), top)
    single = len(first.settings_P) == 1
    most_useful = single and bool(first.utility_P[0] >= top)
    if most_useful:
        low = high = top
    if at is None:
        points = np.concatenate([first.utility_P, second.utility_P])
        at = [high] if single else sorted({float(u) for u in points if low <= u <= high})
    if low > high or not at:
        natural = abs if not rail_of_utility(first.utility_name).higher_is_better else float
        reason = (
            f"no common {first.utility_name}: {natural(first.utility_P.min()):.3f} to {natural(first.utility_P.max()):.3f} "
            f"against {natural(second.utility_P.min()):.3f} to {natural(top):.3f}"
        )
        return EqualUtility(first.utility_name, Interval(NAN, reason=reason), NAN, NAN, ())
    at_U = np.asarray(at, dtype=float)
    signed = [_bias_at(front, front.utility_P, front.bias_P, at_U) for front in (first, second)]
    # near parity the side is a guess: it is taken from the estimate, as in a reading
    sides = [np.where(x < 0, -1.0, 1.0) if front.parity else 1.0 for x, front in zip(signed, (first, second), strict=True)]
    a_U, b_U = (side * x for side, x in zip(sides, signed, strict=True))
    draws_BU = np.empty((len(first.bias_BP), len(at_U)))
    lost = 0
    if most_useful and at_U.tolist() == [top]:
        # no resample chooses the most useful point anew: where utilities hardly differ it would be another one by chance
        draws_BU[:, 0] = sides[0] * first.bias_BP[:, 0] - sides[1] * second.bias_BP[:, second.line[-1]]
    else:
        for i in range(len(draws_BU)):
            # a single point moves along with its own resample; a grid of utilities stays where it is
            wanted = first.utility_BP[i] if single else at_U
            lost += bool(wanted.max() < second.utility_BP[i].min())
            a, b = (_bias_at(f, f.utility_BP[i], f.bias_BP[i], wanted) for f in (first, second))
            draws_BU[i] = sides[0] * a - sides[1] * b
    df = min(first.df, second.df)
    t = float(stdtrit(df, 0.5 + first.confidence / 2)) if df > 0 else NAN
    reason = first.undefined or second.undefined
    if lost > _LOST_DRAWS * len(draws_BU):
        reason = "the utilities hardly meet: in some resamples the second front does not reach that low"

    def interval(value: float, draws: Array) -> Interval:
        if reason:
            return Interval(float(value), reason=reason)
        se = float(np.std(draws))
        return Interval(float(value), float(value - t * se), float(value + t * se), se)

    gaps = a_U - b_U
    return EqualUtility(
        first.utility_name, interval(gaps.mean(), draws_BU.mean(axis=1)), float(low), float(high),
        tuple(
            (float(u), float(a), float(b), interval(a - b, draws_BU[:, i]))
            for i, (u, a, b) in enumerate(zip(at_U, a_U, b_U, strict=True))
        ),
    )  # fmt: skip


def _bias_at(front: Front, utility_P: Array, bias_P: Array, at_U: Array) -> Array:
    line = front.line  # of the estimates: a resample must not choose the better of two anew
    order = np.argsort(utility_P[line], kind="stable")
    return np.interp(at_U, utility_P[line][order], bias_P[line][order])  # beyond the ends: the end's bias


def _clusters(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(sorted(set(rows["cluster"].astype(str))))


def _estimate(
    rows: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], what: str, setting: str | float
) -> Jackknife:
    found = None if rows.empty else jackknife(rows, statistic)
    if found is None or not math.isfinite(found.value):
        raise InputError(
            f"{what} is missing or not finite", where=f"setting {setting} of a front",
            fix="leave out the items that could not be scored, and settings that broke the model",
        )  # fmt: skip
    return found


def _group_weights(clusters: Sequence[str], draws: Resampler) -> Array:
    """(B, G) counts of the jackknife's groups; the same clusters always get the same."""
    members: dict[int, list[str]] = {}
    for name, group in cluster_groups(clusters).items():
        members.setdefault(group, []).append(name)
    return draws.weights("groups", ["\x1f".join(members[group]) for group in range(len(members))])


def _draws(estimate: Jackknife, weights_BG: Array) -> Array:
    """(B,) values of a statistic linearised in the weights of G groups.

    Group g's influence is (G - 1)(mean - without_g) (Efron 1982, chapter 6), and the root of G/(G - 1) makes the variance
    the jackknife's: resampling G units understates it by that much.
    """
    n = weights_BG.shape[1]
    if estimate.undefined or n < 2:
        return np.full(len(weights_BG), estimate.value)
    influence_G = (n - 1) * (estimate.without.mean() - estimate.without)
    found: Array = estimate.value + (weights_BG - 1) @ influence_G / n * math.sqrt(n / (n - 1))
    return found


def _distance(estimate: Jackknife, parity: bool) -> Jackknife:
    side = -1.0 if parity and estimate.value < 0 else 1.0
    return estimate.map(lambda x: side * x)
