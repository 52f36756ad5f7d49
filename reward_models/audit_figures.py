"""Figures of the reward-model audit as inline SVG: the same input gives the same bytes, no text of it becomes markup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from teachfair.svg import INK, MUTED, drawn, inline, plain

BLUE, ORANGE = "#0072B2", "#D55E00"
MOST_GROUPS = 30  # more are drawn as the fifteen worst and the fifteen best


@drawn
def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share of fair texts against the stated probability, one point per bin; empty without bins."""
    if not bins:
        return ""
    figure, axes = _figure(3.9, 3.5, left=0.16)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
    x = [each["mean_probability"] for each in bins]
    y = [each["observed"] for each in bins]
    below = [max(each["observed"] - each["observed_low"], 0) for each in bins]
    above = [max(each["observed_high"] - each["observed"], 0) for each in bins]
    axes.errorbar(x, y, yerr=[below, above], fmt="o", color=BLUE, markersize=4, linewidth=1.2, capsize=2)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("stated probability of fair")
    axes.set_ylabel("share that is fair")
    _clean(axes)
    return inline(figure, "reliability", "Reliability: share of fair texts against the stated probability")


@drawn
def group_rates(rows: Sequence[Mapping[str, Any]], overall: float | None, name: str) -> str:
    """False "unfair" rate of each group with its interval, worst first; empty without groups."""
    if not rows:
        return ""
    shown = list(rows)
    if len(shown) > MOST_GROUPS:
        shown = [*shown[: MOST_GROUPS // 2], *shown[-MOST_GROUPS // 2 :]]
    figure, axes = _figure(3.9, 0.75 + 0.185 * len(shown), left=0.36)
    for place, row in enumerate(shown):
        value = row["false_unfair"]
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=BLUE, linewidth=1.3)
        axes.plot([value], [place], marker="o", color=BLUE, markersize=4)
    if overall is not None:
        axes.axvline(overall, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(shown)), [plain(row["group"], 24) for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of fair texts called unfair")
    _clean(axes)
    return inline(figure, f"groups-{name}", "False unfair rate of each group")


@drawn
def shortcut_shifts(rows: Sequence[Mapping[str, Any]], floor: Callable[[str], float]) -> str:
    """Shift of the reward by each probe, in margins; named ones are orange and filled squares. Empty without any."""
    shown = [row for row in rows if row["value"] is not None]
    if not shown:
        return ""
    figure, axes = _figure(3.9, 0.75 + 0.185 * len(shown), left=0.5)
    for place, row in enumerate(shown):
        below = floor(row["probe"])
        axes.fill_betweenx([place - 0.5, place + 0.5], -below, below, color="#eeeeee", linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for place, row in enumerate(shown):
        colour, marker = (ORANGE, "s") if row["named"] else (BLUE, "o")
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.3)
        axes.plot([row["value"]], [place], marker=marker, color=colour, markersize=4)
    axes.set_yticks(range(len(shown)), [plain(row["probe"], 32) for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("shift, mean margins")
    _clean(axes)
    return inline(figure, "shortcuts", "Shift of the reward by each planted trait, in mean margins")


def _figure(width: float, height: float, *, left: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, 0.48 / height, 0.97 - left, 1 - 0.58 / height))
    return figure, axes


def _clean(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)
