"""The front of a dial: one row a strength, which row meets a target, and whether held-out items confirm it.

Pure functions of per-item records: the records of a policy and those of the untaught one on the same items.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.statistics.counts import wilson
from teachfair.evaluation.statistics.guards import UNDEFINED, VIOLATED, GuardRail, guard_rails
from teachfair.evaluation.statistics.interval import Interval, Resampler, crossed, mean_interval

if TYPE_CHECKING:
    import pandas as pd

TARGETS = {"margin": "margin_nats", "parity": "margin_parity_nats"}
VERIFIED, NOT_VERIFIED, INCONCLUSIVE = "verified", "not verified", "inconclusive"
# Roles whose log-probabilities make a condition's margin, and the roles of a right answer (the benchmarks' item schema).
MARGIN_ROLES = {"ambiguous": ("stereotype", "unknown"), "parity": ("stereotype", "anti")}
RIGHT_ROLES = ("evidence", "right")
SHARES = {"stereotype": None, "unknown": None, "evidence": "disambiguated"}  # None: the outcome's condition
_RESAMPLES = 2000


@dataclass(frozen=True)
class Target:
    """What a strength is to meet: ``column`` of the outcome's records, and its value in nats."""

    text: str
    column: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """``margin=0`` or ``parity=0.5``. Raises: ConfigError."""
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name.strip() not in TARGETS or not math.isfinite(value):
            raise ConfigError(
                f"the target {text!r} is not a known name and a number", where="--target",
                fix=f"NAME=NUMBER in nats, NAME one of {', '.join(TARGETS)}; such as margin=0",
            )  # fmt: skip
        return cls(f"{name.strip()}={value:g}", TARGETS[name.strip()], value)


@dataclass(frozen=True)
class Row:
    """One point of the front: a strength, or a guidance, on one split.

    ``margin``: mean of the target's column over the items of the outcome's condition, nats, 95 % over item clusters. It is
    about this policy on such items: one policy has no seeds. ``by_axis``: its means. ``rails``: guard-rails, changes
    against the untaught policy. ``shares``: expected share of an answer when the policy answers by sampling among the item's
    options: stereotype and unknown where nothing is known, evidence where the text decides; exact, over options.
    ``kl_outcome_nats``, ``kl_elsewhere_nats``: mean KL(this ‖ untaught) between their distributions over an item's options,
    on the outcome's items and on all others: exact for items with options, not the KL of free text.
    """

    kind: str
    setting: float
    split: str
    margin: Interval
    by_axis: dict[str, float]
    rails: tuple[GuardRail, ...]
    shares: dict[str, Interval]
    kl_outcome_nats: float
    kl_elsewhere_nats: float
    n_items: int
    n_clusters: int

    @property
    def violated(self) -> list[str]:
        return [rail.name for rail in self.rails if rail.status == VIOLATED]

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "setting": self.setting, "split": self.split, "margin_nats": self.margin.as_dict(),
            "by_axis": self.by_axis, "guard_rails": [rail.as_dict() for rail in self.rails],
            "shares": {name: share.as_dict() for name, share in self.shares.items()},
            "kl_outcome_nats": finite_or_none(self.kl_outcome_nats),
            "kl_elsewhere_nats": finite_or_none(self.kl_elsewhere_nats),
            "n_items": self.n_items, "n_clusters": self.n_clusters,
        }  # fmt: skip


@dataclass(frozen=True)
class BestOf:
    """Best-of-n of the policy at strength ``alpha`` on held-out items: shares of *sampled* answers, by role.

    ``reward``: mean reward of the chosen answers, logits. ``shares``: as in :class:`Row`, but counted, so that answers
    that are none of the item's options count against every share (``off_option`` is theirs).
    """

    n: int
    alpha: float
    reward: Interval
    shares: dict[str, Interval]
    off_option: Interval
    kl_bound_nats: float
    n_prompts: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "n": self.n, "alpha": self.alpha, "reward": self.reward.as_dict(), "kl_bound_nats": self.kl_bound_nats,
            "shares": {name: share.as_dict() for name, share in self.shares.items()},
            "off_option": self.off_option.as_dict(), "n_prompts": self.n_prompts,
        }  # fmt: skip


@dataclass(frozen=True)
class Pick:
    """The strength that meets the target on the development items, or the nearest one and why it does not."""

    alpha: float
    met: bool
    why: str
    dev: Row
    held_out: Row | None = None
    verdict: str = ""
    verdict_why: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha, "met": self.met, "why": self.why, "dev": self.dev.as_dict(),
            "held_out": None if self.held_out is None else self.held_out.as_dict(), "verdict": self.verdict,
            "verdict_why": self.verdict_why,
        }  # fmt: skip


def front_row(
    records: pd.DataFrame, untaught: pd.DataFrame, *, kind: str, setting: float, split: str, condition: str,
    target: Target, tolerance: float,
) -> Row:  # fmt: skip
    """One row of the front from the records of a policy and of the untaught one on the same items: a pure function.

    Raises: InputError if the outcome's condition or column is missing, or a margin is not finite.
    """
    outcome = records[records["condition"] == condition]
    if outcome.empty or target.column not in outcome.columns:
        raise InputError(
            f"no {target.column} of condition {condition!r}", where=f"{split} items, {kind} {setting:g}",
            fix="give a benchmark whose CARD names its outcome_condition, and a target it has (margin or parity)",
        )  # fmt: skip
    values = outcome[target.column].to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise InputError(
            f"{target.column} is not finite in {int((~np.isfinite(values)).sum())} of {len(values)} records",
            where=f"{split} items, {kind} {setting:g}", fix="this policy is broken: a lower strength may not be",
        )  # fmt: skip
    keys = {"adapt": "dial", "compress": "none", "order": "align-then-compress", "base": "this"}
    import pandas as pd

    cells = [records.assign(teach="this", seed=0, **keys), untaught.assign(teach="untaught", seed=-1, **keys)]
    rails = guard_rails(pd.concat(cells, ignore_index=True), tolerance=tolerance)
    inside, outside = (records["condition"] == condition), (records["condition"] != condition)
    return Row(
        kind=kind, setting=float(setting), split=split, margin=cluster_mean(values, list(outcome["cluster"])),
        by_axis={str(axis): float(part[target.column].mean()) for axis, part in outcome.groupby("axis", sort=True)},
        rails=next(found for cell, found in rails.items() if cell.teach == "this"),
        shares=_expected_shares(records, condition),
        kl_outcome_nats=_mean_kl(records[inside.to_numpy()], untaught[inside.to_numpy()]),
        kl_elsewhere_nats=_mean_kl(records[outside.to_numpy()], untaught[outside.to_numpy()]),
        n_items=len(outcome), n_clusters=int(outcome["cluster"].nunique()),
    )  # fmt: skip


def cluster_mean(values: Sequence[float] | np.ndarray, clusters: Sequence[str], *, random_state: int = 0) -> Interval:
    """Mean over items, 95 % by resampling item clusters. A share on which all agree: Wilson's with one trial a cluster."""
    numbers = np.asarray(values, dtype=float)
    if len(numbers) == 0:
        return Interval(math.nan, reason="no items")
    names, slots = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sizes = np.bincount(slots).astype(float)
    means = np.bincount(slots, weights=numbers) / sizes
    if len(names) > 1 and np.ptp(numbers) == 0 and numbers[0] in (0.0, 1.0):
        bounds = wilson(len(names) if numbers[0] else 0, len(names))
        return Interval(float(numbers[0]), bounds.low, bounds.high, 0.0, "every cluster agrees: Wilson over clusters")
    (estimate,) = crossed(means[None, None, :], sizes, None, tuple(names.tolist()), Resampler(random_state, _RESAMPLES))
    return mean_interval(estimate, 0.95)


def share_mean(values: Sequence[float], clusters: Sequence[str]) -> Interval:
    """:func:`cluster_mean` of numbers in [0, 1]; its limits stay there."""
    mean = cluster_mean(values, clusters)
    return dataclasses.replace(mean, low=_clipped(mean.low), high=_clipped(mean.high))


def _clipped(limit: float) -> float:
    return limit if math.isnan(limit) else min(max(limit, 0.0), 1.0)


def _expected_shares(records: pd.DataFrame, condition: str) -> dict[str, Interval]:
    shares = {}
    for role, where in SHARES.items():
        part = records[records["condition"] == (where or condition)]
        part = part[[role in roles for roles in part["roles"]]] if len(part) else part
        values = [
            math.exp(logps[list(roles).index(role)]) for roles, logps in zip(part["roles"], _option_logps(part), strict=True)
        ]
        shares[role] = share_mean(values, list(part["cluster"]))
    return shares


def _option_logps(records: pd.DataFrame) -> list[list[float]]:
    """Log-probabilities over each item's options, normalised: whole sentences for parity items, else where they part."""
    rows = []
    for condition, first, whole in zip(records["condition"], records["logps_first"], records["logps_whole"], strict=True):
        logps = np.asarray(whole if condition == "parity" else first, dtype=float)
        rows.append((logps - np.logaddexp.reduce(logps)).tolist())
    return rows


def _mean_kl(here: pd.DataFrame, there: pd.DataFrame) -> float:
    """Mean over items of KL(here ‖ there) between distributions over the item's options, nats."""
    if here.empty:
        return math.nan
    if list(here["item_id"]) != list(there["item_id"]):
        raise InputError("two points hold different items", where="the front", fix="score both on the same items")
    gaps = [
        math.fsum(math.exp(p) * (p - q) for p, q in zip(mine, other, strict=True))
        for mine, other in zip(_option_logps(here), _option_logps(there), strict=True)
    ]
    return math.fsum(gaps) / len(gaps)


def rescored(
    records: pd.DataFrame, logps_first: Sequence[Sequence[float]], logps_whole: Sequence[Sequence[float]]
) -> pd.DataFrame:
    """Records with other log-probabilities of their options: ``chosen_role``, ``correct`` and ``margin_nats`` follow them.

    Args: one list a record, in the order of its options; each may be off by a constant of its item.
    Columns that would no longer be true (``margin_parity_nats``, ``yes_nats``) are dropped.
    """
    found = records.assign(logps_first=list(logps_first), logps_whole=list(logps_whole))
    chosen, margins = [], []
    for condition, roles, first, whole in zip(
        found["condition"], found["roles"], found["logps_first"], found["logps_whole"], strict=True
    ):
        logps = dict(zip(roles, whole if condition == "parity" else first, strict=True))
        chosen.append(max(logps, key=lambda role: logps[role]))
        against, fair = MARGIN_ROLES.get(condition, ("", ""))
        margins.append(logps[against] - logps[fair] if against in logps and fair in logps else math.nan)
    found["chosen_role"], found["margin_nats"] = chosen, margins
    right = found["chosen_role"].isin(RIGHT_ROLES).astype(float)
    found["correct"] = right.where(records["correct"].notna())
    return found.drop(columns=[name for name in ("margin_parity_nats", "yes_nats") if name in found.columns])


def pick(rows: Sequence[Row], target: Target) -> Pick:
    """The row whose margin is nearest to the target among those that meet it: pure.

    A row meets the target if its interval contains it and no guard-rail is violated. If none does, the nearest row without
    a violated guard-rail (of all, if every one violates) is given, with ``met`` False and the reason.
    """

    def distance(row: Row) -> tuple[float, float]:
        return abs(row.margin.value - target.value), abs(row.setting)

    meeting = [row for row in rows if _covers(row.margin, target.value) and not row.violated]
    if meeting:
        best = min(meeting, key=distance)
        measured = any(rail.status != UNDEFINED for rail in best.rails)
        rails = "no guard-rail is violated" if measured else "no guard-rail could be measured on these items"
        return Pick(best.setting, True, f"{target.text} lies in its interval, and {rails}", best)
    sound = [row for row in rows if not row.violated]
    best = min(sound or rows, key=distance)
    nearest = min(rows, key=distance)
    if best.violated:
        why = f"every strength violates a guard-rail; at the nearest one: {', '.join(best.violated)}"
    elif nearest.violated:
        why = f"strength {nearest.setting:g} is nearer to the target, but violates {', '.join(nearest.violated)}"
    else:
        low, high = (min(row.margin.value for row in rows), max(row.margin.value for row in rows))
        why = f"no interval contains {target.text}: over these strengths the mean goes from {low:.3f} to {high:.3f} nats"
    return Pick(best.setting, False, why, best)


def verify(row: Row, target: Target, *, within: float) -> tuple[str, str]:
    """Whether held-out items confirm a pick, by equivalence: (verdict, why). Pure.

    The band is target ± ``within`` nats. "not verified": a guard-rail is violated, or the interval lies outside the band;
    "verified": the interval lies inside the band, or contains the target and is no wider than the band; else "inconclusive".
    No margin is exactly the target: with enough items every interval leaves it, and one that holds it by being wide
    confirms nothing.
    """
    if row.violated:
        return NOT_VERIFIED, f"violated on {row.split} items: {', '.join(row.violated)}"
    if not math.isfinite(row.margin.low):
        return INCONCLUSIVE, row.margin.reason or "the interval is undefined"
    low, high = row.margin.low, row.margin.high
    text = f"[{low:.3f}, {high:.3f}] nats, the band is {target.text} ± {within:g}"
    if high < target.value - within or low > target.value + within:
        return NOT_VERIFIED, f"the interval lies outside the band: {text}"
    inside = target.value - within <= low and high <= target.value + within
    if inside or (_covers(row.margin, target.value) and high - low <= 2 * within):
        return VERIFIED, f"the interval {'lies in the band' if inside else 'contains the target'}: {text}"
    return INCONCLUSIVE, f"the interval reaches beyond the band, so more items are needed: {text}"


def _covers(margin: Interval, value: float) -> bool:
    return math.isfinite(margin.low) and margin.low <= value <= margin.high


def finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
