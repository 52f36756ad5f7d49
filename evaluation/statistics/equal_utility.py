"""Two methods at the same utility: a broken model looks fair because it answers at random.

A front is one method at several settings (the beta of a sweep, the strength of a dial, an amount of noise): each point has a
bias and a utility, and between points the bias is interpolated over the utility. All points of both fronts are resampled
together, item clusters of the bias and of the utility each, so that pairing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError, unknown_name
from teachfair.evaluation.statistics.guards import RAILS, Rail
from teachfair.evaluation.statistics.interval import NAN, Interval, Resampler

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array

_LOST_DRAWS = 0.05  # more draws than this without a common utility: no interval


@dataclass(frozen=True)
class Front:
    """P points: ``bias_P`` (higher is more biased) and ``utility_P`` (higher is better), with their bootstrap draws (B, P).

    ``items``: names of the clusters of bias and of utility; two fronts are compared on the same ones only.
    """

    settings_P: tuple[float, ...]
    bias_P: Array
    utility_P: Array
    bias_BP: Array
    utility_BP: Array
    utility_name: str
    items: tuple[tuple[str, ...], tuple[str, ...]]
    confidence: float

    @property
    def df(self) -> int:
        return min(len(names) for names in self.items) - 1


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


def front_of(
    points: Sequence[tuple[float, pd.DataFrame]], *, condition: str = "ambiguous", outcome: str = "margin_nats",
    benchmark: str | None = None, parity: bool = False, utility: str = "disambiguated accuracy", confidence: float = 0.95,
    random_state: int = 0, n_resamples: int = 2000,
) -> Front:  # fmt: skip
    """The front of a method from (setting, records) of each point, all on the same items.

    Args: utility: the name of a guard-rail of one direction; where lower is better its negative is the utility.
        parity: bias is the distance of the mean from 0, else the mean.
    Raises: InputError if a point lacks the outcome or the utility's condition, or holds other items than the first.
    """
    rail = next((rail for rail in RAILS if rail.name == utility and not rail.two_sided), None)
    if rail is None:
        raise unknown_name("utility", utility, {rail.name: rail for rail in RAILS if not rail.two_sided})
    if not points:
        raise InputError("a front without points", where="front_of", fix="give the records of at least one setting")
    draws = Resampler(random_state, n_resamples)
    tables: list[tuple[Array, Array]] = []
    names: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    for setting, records in points:
        here = records if benchmark is None else records[records["benchmark"] == benchmark]
        bias = _sums(here[here["condition"] == condition], outcome, setting)
        useful = records[records["condition"] == rail.condition]
        if benchmark is not None and (useful["benchmark"] == benchmark).any():
            useful = useful[useful["benchmark"] == benchmark]
        use = _rail_sums(useful, rail, setting)
        names = names or (bias[0], use[0])
        if (bias[0], use[0]) != names:
            raise InputError(
                "two points of a front hold different item clusters", where=f"setting {setting:g}",
                fix="score every point on the same items",
            )  # fmt: skip
        tables.append((bias[1], use[1]))
    assert names is not None
    sides = [_resampled([table[i] for table in tables], names[i], draws) for i in (0, 1)]
    sign = 1.0 if rail.higher_is_better else -1.0
    (bias_P, bias_BP), (utility_P, utility_BP) = sides
    if parity:
        side = np.where(bias_P < 0, -1.0, 1.0)
        bias_P, bias_BP = bias_P * side, bias_BP * side
    return Front(
        tuple(setting for setting, _ in points), bias_P, sign * utility_P, bias_BP, sign * utility_BP, utility, names,
        confidence,
    )  # fmt: skip


def at_equal_utility(first: Front, second: Front, *, at: Sequence[float] | None = None) -> EqualUtility:
    """Bias of ``first`` minus bias of ``second`` at the same utility.

    Args: at: utilities to compare at; None: those of the points of either front within the range that both reach (of a front
        with one point, that point's). A first front of one point that is more useful than every point of the second is held
        against the second's most useful point: it gave up nothing that the other kept.
    Returns: NaN with a reason where the ranges do not meet, or hardly meet in the resamples. Source of the idea:
        PROTOCOL; the interpolation is piecewise linear in the points ordered by utility.
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
    if single and first.utility_P[0] >= top:
        low = high = top
    if at is None:
        points = np.concatenate([first.utility_P, second.utility_P])
        at = [high] if single else sorted({float(u) for u in points if low <= u <= high})
    if low > high or not at:
        reason = (
            f"no common {first.utility_name}: {first.utility_P.min():.3f} to {first.utility_P.max():.3f} against "
            f"{second.utility_P.min():.3f} to {top:.3f}"
        )
        return EqualUtility(first.utility_name, Interval(NAN, reason=reason), NAN, NAN, ())
    at_U = np.asarray(at, dtype=float)
    a_U, b_U = _bias_at(first.utility_P, first.bias_P, at_U), _bias_at(second.utility_P, second.bias_P, at_U)
    draws_BU = np.empty((len(first.bias_BP), len(at_U)))
    lost = 0
    for i in range(len(draws_BU)):
        # a single point moves along with its own resample; a grid of utilities stays where it is
        wanted = first.utility_BP[i] if single else at_U
        lost += bool(wanted.max() < second.utility_BP[i].min())
        draws_BU[i] = _bias_at(first.utility_BP[i], first.bias_BP[i], wanted) - _bias_at(
            second.utility_BP[i], second.bias_BP[i], wanted
        )
    k = first.df + 1
    scale = math.sqrt(k / (k - 1)) if k > 1 else NAN
    t = float(stdtrit(first.df, 0.5 + first.confidence / 2)) if k > 1 else NAN
    reason = "one item cluster: no variance between clusters can be estimated" if k < 2 else ""
    if lost > _LOST_DRAWS * len(draws_BU):
        reason = "the utilities hardly meet: in some resamples the second front does not reach that low"

    def interval(value: float, draws: Array) -> Interval:
        if reason:
            return Interval(float(value), reason=reason)
        se = float(np.std(draws)) * scale
        return Interval(float(value), float(value - t * se), float(value + t * se), se)

    gaps = a_U - b_U
    return EqualUtility(
        first.utility_name, interval(gaps.mean(), draws_BU.mean(axis=1)), float(low), float(high),
        tuple(
            (float(u), float(a), float(b), interval(a - b, draws_BU[:, i]))
            for i, (u, a, b) in enumerate(zip(at_U, a_U, b_U, strict=True))
        ),
    )  # fmt: skip


def _bias_at(utility_P: Array, bias_P: Array, at_U: Array) -> Array:
    order = np.argsort(utility_P, kind="stable")
    return np.interp(at_U, utility_P[order], bias_P[order])  # beyond the ends: the end's bias


def _sums(rows: pd.DataFrame, outcome: str, setting: float) -> tuple[tuple[str, ...], Array]:
    values = rows[outcome].to_numpy(dtype=float, na_value=np.nan) if outcome in rows.columns else np.array([NAN])
    return _by_cluster(rows, values, np.ones(len(rows)), outcome, setting)


def _rail_sums(rows: pd.DataFrame, rail: Rail, setting: float) -> tuple[tuple[str, ...], Array]:
    if any(column not in rows.columns for column in rail.columns):
        return _by_cluster(rows, np.array([NAN]), np.ones(1), rail.name, setting)
    values, weights = rail.per_record(rows)
    return _by_cluster(rows, values, weights, rail.name, setting)


def _by_cluster(
    rows: pd.DataFrame, values: Array, weights: Array, what: str, setting: float
) -> tuple[tuple[str, ...], Array]:
    if rows.empty or not np.isfinite(values).all():
        raise InputError(
            f"{what} is missing or not finite", where=f"setting {setting:g} of a front",
            fix="leave out the items that could not be scored, and settings that broke the model",
        )  # fmt: skip
    names, slots = np.unique(rows["cluster"].astype(str).to_numpy(dtype=str), return_inverse=True)
    return tuple(names.tolist()), np.stack([np.bincount(slots, weights=x) for x in (values, weights)], axis=1)


def _resampled(tables: Sequence[Array], names: tuple[str, ...], draws: Resampler) -> tuple[Array, Array]:
    """(P,) means and (B, P) resampled ones of P tables (K, 2) of sums and weights."""
    weights_BK = draws.weights("clusters", names)
    points = [table[:, 0].sum() / table[:, 1].sum() for table in tables]
    resampled = [(weights_BK @ table[:, 0]) / (weights_BK @ table[:, 1]) for table in tables]
    return np.array(points), np.stack(resampled, axis=1)
