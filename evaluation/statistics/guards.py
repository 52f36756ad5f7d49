"""Guard-rails: what teaching and compression may have cost. They stand beside every bias number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import ConfigError
from teachfair.evaluation.statistics.cells import KEYS, UNTAUGHT, Cell, untaught
from teachfair.evaluation.statistics.interval import NAN, Interval

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array

OK, VIOLATED, UNCLEAR, UNDEFINED = "ok", "violated", "unclear", "undefined"


@dataclass(frozen=True)
class GuardRail:
    """One guard-rail of one cell: a share in [0, 1], and its change against the untaught policy at the same
    compression (for an untaught cell: against the uncompressed one). ``higher_is_better`` gives the direction.

    status: "violated" if the change is worse than the tolerance; "ok" if neither the change nor its interval is;
    "unclear" if only the interval reaches beyond the tolerance; "undefined" with a reason.
    """

    name: str
    meaning: str
    condition: str
    higher_is_better: bool
    value: Interval
    change: Interval
    tolerance: float
    status: str
    n_records: int  # over items, seeds and bases

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "condition": self.condition, "higher_is_better": self.higher_is_better,
            "value": self.value.as_dict(), "change": self.change.as_dict(), "tolerance": self.tolerance,
            "status": self.status, "n_records": self.n_records,
        }  # fmt: skip


def _correct(rows: pd.DataFrame) -> Array:
    return rows["correct"].to_numpy(dtype=float, na_value=np.nan)


def _unknown(rows: pd.DataFrame) -> Array:
    return (rows["chosen_role"] == "unknown").to_numpy(dtype=float)


# name, meaning, condition, column it needs, value per record, higher is better
RAILS: tuple[tuple[str, str, str, str, Callable[[Any], Array], bool], ...] = (
    ("disambiguated accuracy", "evidence given: the answer follows it", "disambiguated", "correct", _correct, True),
    ("unknown-overuse", '"cannot tell" although evidence decides', "disambiguated", "chosen_role", _unknown, False),
    ("definitional accuracy", "awareness: still knows who is who", "definitional", "correct", _correct, True),
    ("decision accuracy", "decides by the qualification", "decision", "correct", _correct, True),
    ("neutral accuracy", "utility: questions without a group", "neutral", "correct", _correct, True),
)


def guard_rails(
    records: pd.DataFrame, *, tolerance: float = 0.02, confidence: float = 0.95, benchmark: str | None = None
) -> dict[Cell, tuple[GuardRail, ...]]:
    """All guard-rails of every cell, in the order of ``RAILS``; a missing condition is "undefined", never 0.

    Means are over seeds and bases; intervals are over item clusters with t (K - 1), given these seeds: a change is
    the paired difference per cluster. Where every cluster agrees, a share's interval is Wilson's with one trial per
    cluster, since a zero variance would claim certainty.
    Args: tolerance: how much worse than the untaught policy is still fair teaching; 0.02 = two points.
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance {tolerance}", where="guard_rails", fix="give a share, such as 0.02")
    if benchmark is not None and "benchmark" in records.columns:
        records = records[records["benchmark"] == benchmark]
    cells = sorted({_cell(*key) for key in records[[*KEYS[1:5]]].drop_duplicates().itertuples(index=False)})
    rails: dict[Cell, list[GuardRail]] = {cell: [] for cell in cells}
    for name, meaning, condition, column, value_of, higher in RAILS:
        sums: dict[Cell, dict[str, tuple[float, float]]] = {}
        problem = f"no records of condition {condition!r}"
        rows = records[records["condition"] == condition]
        if column not in rows.columns:
            problem, rows = f"the records lack the column {column!r}", rows.iloc[:0]
        if len(rows):
            table = rows[[*KEYS[1:5], "cluster"]].assign(value=value_of(rows))
            undefined_rows = table["value"].isna()
            if undefined_rows.any():
                problem = f"{column} is undefined in this condition"
                table = table[~undefined_rows]
            grouped = table.groupby([*KEYS[1:5], "cluster"])["value"].agg(["sum", "count"])
            for (teach, adapt, compress, order, cluster), total, count in grouped.itertuples():
                of_cell = sums.setdefault(_cell(teach, adapt, compress, order), {})
                before = of_cell.get(str(cluster), (0.0, 0.0))
                of_cell[str(cluster)] = (before[0] + total, before[1] + count)
        for cell in cells:
            rails[cell].append(_rail(
                name, meaning, condition, higher, cell, sums, problem, tolerance, confidence
            ))  # fmt: skip
    return {cell: tuple(found) for cell, found in rails.items()}


def _cell(teach: str, adapt: str, compress: str, order: str) -> Cell:
    return untaught(str(compress)) if teach == UNTAUGHT else Cell(str(teach), str(adapt), str(compress), str(order))


def _rail(
    name: str, meaning: str, condition: str, higher: bool, cell: Cell,
    sums: dict[Cell, dict[str, tuple[float, float]]], problem: str, tolerance: float, confidence: float,
) -> GuardRail:  # fmt: skip
    here = sums.get(cell)
    if not here:
        nothing = Interval(NAN, reason=problem)
        return GuardRail(name, meaning, condition, higher, nothing, nothing, tolerance, UNDEFINED, 0)
    baseline_cell = untaught("none") if cell.teach == UNTAUGHT else untaught(cell.compress)
    n_records = int(sum(n for _, n in here.values()))
    value = _share(np.array(list(here.values())), confidence)
    baseline = sums.get(baseline_cell)
    if cell == baseline_cell:
        change = Interval(NAN, reason="this is the baseline")
    elif baseline is None:
        change = Interval(NAN, reason=f"the baseline {baseline_cell} was not scored")
    elif set(baseline) != set(here):
        change = Interval(NAN, reason=f"the baseline {baseline_cell} holds other item clusters")
    else:
        change = _difference(here, baseline, confidence)
    if math.isnan(change.value):
        status = UNDEFINED
    else:
        sign = 1 if higher else -1
        worst = change.low if higher else -change.high
        if sign * change.value < -tolerance - 1e-12:
            status = VIOLATED
        elif worst < -tolerance - 1e-12:
            status = UNCLEAR
        else:
            status = OK  # a NaN interval (one cluster) leaves the point to decide; the reason is printed
    return GuardRail(name, meaning, condition, higher, value, change, tolerance, status, n_records)


def _share(sums_K2: Array, confidence: float) -> Interval:
    from scipy.special import stdtrit

    from teachfair.evaluation.statistics.counts import wilson

    totals, counts = sums_K2.T
    k, mean = len(counts), totals.sum() / counts.sum()
    if k == 1:
        return Interval(float(mean), reason="one item cluster: no variance between clusters can be estimated")
    deviations = (totals - mean * counts) / counts.sum()
    se = math.sqrt(k / (k - 1) * float((deviations**2).sum()))
    if se < 1e-12 and (mean < 1e-12 or mean > 1 - 1e-12):
        bounds = wilson(k if mean > 0.5 else 0, k, confidence)
        return Interval(float(mean), bounds.low, bounds.high, 0.0, "every cluster agrees: Wilson over clusters")
    half = float(stdtrit(k - 1, 0.5 + confidence / 2)) * se
    return Interval(float(mean), max(0.0, mean - half), min(1.0, mean + half), se)


def _difference(here: dict[str, tuple[float, float]], there: dict[str, tuple[float, float]], confidence: float) -> Interval:
    from scipy.special import stdtrit

    clusters = sorted(here)
    a, b = (np.array([side[c] for c in clusters]) for side in (here, there))
    k = len(clusters)
    mean_a, mean_b = a[:, 0].sum() / a[:, 1].sum(), b[:, 0].sum() / b[:, 1].sum()
    change = float(mean_a - mean_b)
    if k == 1:
        return Interval(change, reason="one item cluster: no variance between clusters can be estimated")
    deviations = (a[:, 0] - mean_a * a[:, 1]) / a[:, 1].sum() - (b[:, 0] - mean_b * b[:, 1]) / b[:, 1].sum()
    se = math.sqrt(k / (k - 1) * float((deviations**2).sum()))
    half = float(stdtrit(k - 1, 0.5 + confidence / 2)) * se
    return Interval(change, change - half, change + half, se)
