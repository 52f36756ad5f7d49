"""A model held against a front at the same utility, benchmark by benchmark; the arithmetic is ``statistics/equal_utility``.

A front begins at the baseline and goes on with the baseline damaged by growing amounts, or with another method's checkpoints
at growing strengths. Pure functions of per-item records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from teachfair.errors import InputError
from teachfair.evaluation.statistics.cells import NOT_FINITE
from teachfair.evaluation.statistics.equal_utility import (
    EqualUtility,
    FrontPoint,
    at_equal_utility,
    front_of,
    rail_of_utility,
)
from teachfair.evaluation.statistics.guards import Rail, guards_among, rail_rows
from teachfair.evaluation.statistics.interval import NAN, Interval

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "baseline"  # a front's first point
DAMAGE, METHOD = "damage", "method"  # what the points of a front are: the baseline damaged, or another method's checkpoints
UTILITIES = ("disambiguated accuracy", "neutral accuracy", "bits per byte")  # PROTOCOL's utility: answers, neutral text


@dataclass(frozen=True)
class AgainstFront:
    """A model against a front at the same utility: the baseline damaged by growing amounts, or another method at growing
    strengths, the baseline being strength 0 of either.

    ``kind``: ``damage`` or ``method``. ``utility``: the guard-rail's name, "" if none was measured. ``points``: of the
    front, the baseline first; ``line``: places of the points between which is interpolated, by rising usefulness.
    ``left_out``: points that cannot be used, and why. ``equal.difference``: bias of the model minus that of the front where
    it is as useful as the model; below 0 = the model is less biased. Utilities are as the guard-rail has them (of bits per
    byte lower is better).
    """

    kind: str
    utility: str
    unit: str
    higher_is_better: bool
    model: FrontPoint
    points: tuple[FrontPoint, ...]
    line: tuple[int, ...]
    equal: EqualUtility
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def difference(self) -> Interval:
        return self.equal.difference

    @property
    def less_useful(self) -> bool:
        """Whether the model is less useful than the baseline, by the estimates."""
        loss = self.points[0].utility.value - self.model.utility.value
        return loss > 0 if self.higher_is_better else loss < 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "front_is": self.kind, "utility": self.utility, "unit": self.unit, "higher_is_better": self.higher_is_better,
            "model": self.model.as_dict(), "points": [point.as_dict() for point in self.points], "line": list(self.line),
            "left_out": dict(self.left_out),
            **{key: value for key, value in self.equal.as_dict().items() if key != "utility"},
        }  # fmt: skip


def against_front(
    name: str, bias: Callable[[pd.DataFrame], float], condition: str | None, parity: bool, records: pd.DataFrame,
    baseline: pd.DataFrame, front: Sequence[tuple[str, pd.DataFrame]], front_is: str, utility: str | None,
    cards: Mapping[str, Any], confidence: float,
) -> AgainstFront:  # fmt: skip
    """A model and a front's points, the baseline first, on the items of benchmark ``name`` that all of them could score.

    Args: bias: a statistic of the benchmark's rows of ``condition`` (None: of all), 0 where there is no bias; if ``parity``
        its distance from 0 is the bias. records, baseline, front: over all benchmarks. utility: a guard-rail's name; None:
        the first of ``UTILITIES`` that was measured. cards: ``CARD`` by benchmark.
    Raises: InputError if a point lacks the benchmark, holds other items than the baseline, or has another's name. What
        cannot be compared otherwise is a NaN with its reason.
    """
    frames = {key: _with_rails(name, frame, cards) for key, frame in _unique([(BASELINE, baseline), *front])}
    mine = _with_rails(name, records, cards)
    rail = _utility_of(name, mine, utility)
    if rail is None:
        return _no_front(front_is, None, f"neither model was measured on {utility or ', '.join(UTILITIES)}")
    needed = [condition, rail.condition] if condition is not None else [rail.condition]

    def wanted(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows["benchmark"] == name
        return rows[(own if condition is None else False) | rows["condition"].isin(needed)]

    mine, frames = wanted(mine), {key: wanted(frame) for key, frame in frames.items()}
    for key, frame in frames.items():
        _require_same_items(name, key, frame, frames[BASELINE])
    left_out = {key: why for key, frame in frames.items() if (why := _broken(frame))}
    whose = "the model" if _broken(mine) else "the baseline" if BASELINE in left_out else ""
    if whose:
        why = f"{rail.name} of {whose} is undefined: {_broken(mine) or left_out[BASELINE]}"
        return _no_front(front_is, rail, why, tuple(left_out.items()))
    frames = {key: frame for key, frame in frames.items() if key not in left_out}
    unscored = {item for frame in (mine, *frames.values()) for item in _items(frame) - _items(scored(frame))}
    mine, *rest = (frame[[item not in unscored for item in _item_list(frame)]] for frame in (mine, *frames.values()))
    which: dict[str, Any] = {"benchmark": name, "condition": condition, "bias": bias, "utility": rail.name,
                             "parity": parity, "confidence": confidence}  # fmt: skip
    try:
        theirs = front_of(list(zip(frames, rest, strict=True)), **which)
        model = front_of([("this model", mine)], **which)
        equal = at_equal_utility(model, theirs)
    except InputError as error:  # the model's guard-rail was measured on other items, or a number is not defined
        return _no_front(front_is, rail, error.what, tuple(left_out.items()))
    return AgainstFront(
        front_is, rail.name, rail.unit, rail.higher_is_better, model.points[0], theirs.points, tuple(theirs.line),
        equal if rail.higher_is_better else _natural(equal), tuple(left_out.items()),
    )  # fmt: skip


def _no_front(front_is: str, rail: Rail | None, why: str, left_out: tuple[tuple[str, str], ...] = ()) -> AgainstFront:
    nothing, name = Interval(NAN, reason=why), "" if rail is None else rail.name
    return AgainstFront(
        front_is, name, "" if rail is None else rail.unit, rail is None or rail.higher_is_better,
        FrontPoint("this model", nothing, nothing), (), (), EqualUtility(name, nothing, NAN, NAN, ()), left_out,
    )  # fmt: skip


def _unique(points: Sequence[tuple[str, pd.DataFrame]]) -> list[tuple[str, pd.DataFrame]]:
    names = [name for name, _ in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"two points of the front are called {twice[0]}", where="front",
            fix=f"give each a name of its own; {BASELINE} is the baseline's",
        )  # fmt: skip
    return list(points)


def _utility_of(name: str, rows: pd.DataFrame, wanted: str | None) -> Rail | None:
    """The guard-rail that stands for utility: the named one, or the first of ``UTILITIES`` that the records have, those of
    the benchmark itself before those of others."""
    own, all_ = (set(frame["condition"].unique()) for frame in (rows[rows["benchmark"] == name], rows))
    rails = [rail_of_utility(one) for one in ([wanted] if wanted else UTILITIES)]
    return next((rail for there in (own, all_) for rail in rails if rail.condition in there), None)


def _broken(rows: pd.DataFrame) -> str:
    n = int((rows["problem"] == NOT_FINITE).sum()) if "problem" in rows.columns else 0
    return f"{n} of {len(rows)} records are not finite" if n else ""


def _item_list(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["benchmark"].astype(str), rows["item_id"].astype(str), strict=True))


def _items(rows: pd.DataFrame) -> set[tuple[str, str]]:
    return set(_item_list(rows))


def _require_same_items(name: str, key: str, rows: pd.DataFrame, baseline: pd.DataFrame) -> None:
    if not (rows["benchmark"] == name).any():
        raise InputError(
            f"a point of the front was not scored on {name}", where=f"front, {key}",
            fix="evaluate every point with the baseline's benchmarks",
        )  # fmt: skip
    odd = sorted(_items(rows) ^ _items(baseline))
    if odd:
        raise InputError(
            f"a point of the front and the baseline were scored on different items (such as {odd[0][1]} of {odd[0][0]})",
            where=f"front, {key}, benchmark {name}",
            fix="evaluate every point with the baseline's benchmarks, --limit, --lang and --formats",
        )  # fmt: skip


def _natural(equal: EqualUtility) -> EqualUtility:
    """Utilities as the guard-rail has them, where lower is better."""
    by_utility = tuple((-u, a, b, gap) for u, a, b, gap in equal.by_utility)
    return replace(equal, low=-equal.high, high=-equal.low, by_utility=by_utility)


def _with_rails(name: str, frame: pd.DataFrame, cards: Mapping[str, Any]) -> pd.DataFrame:
    """A benchmark's rows, and those of the guards that stand beside it. Its clusters keep their names, so that the jackknife
    leaves out the same groups as for its reading, and one number has one interval."""
    import pandas as pd

    mine = frame[frame["benchmark"] == name]
    rails = rail_rows(frame, name, guards_among(cards))
    return pd.concat([mine, rails[rails["benchmark"] != name]], ignore_index=True)


def scored(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without a ``problem``."""
    return rows if "problem" not in rows.columns else rows[rows["problem"].fillna("").astype(str) == ""]
