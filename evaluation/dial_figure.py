"""The picture of a dial: bias and its guard-rails over the strength, and what deciding at inference buys instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teachfair.evaluation.figures import COLOURS, GRID
from teachfair.svg import INK, MUTED, drawn, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RAILS = (
    ("disambiguated accuracy", "disambiguated accuracy", "s", "-"),
    ("definitional accuracy", "definitional accuracy", "^", "--"),
    ("neutral accuracy", "neutral accuracy (utility)", "D", ":"),
)


@drawn
def dial_figure(front: Mapping[str, Any]) -> str:
    """SVG of a ``front.json``: margin over α (dev and held-out, 95 % bands), guard-rails over α, and shares of answers."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.0))
    FigureCanvasSVG(figure)
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1.25, 1), height_ratios=(1.7, 1), left=0.075, right=0.985, top=0.94, bottom=0.105, wspace=0.2,
        hspace=0.22,
    )  # fmt: skip
    above, below, beside = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[:, 1])
    for axes in (above, below, beside):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(labelsize=8.5, color=MUTED, labelcolor=INK)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
    rows = {split: _of(front["front"], split) for split in ("dev", "held-out")}
    _margins(above, rows, front)
    _rails(below, rows["held-out"])
    below.set_xlim(above.get_xlim())
    _shares(beside, rows["held-out"], front)
    return inline(
        figure, "dial",
        "Bias margin and guard-rails over the strength of the lesson, and shares of answers against deciding at inference. "
        "front.csv holds the same numbers.",
    )  # fmt: skip


def _of(rows: Sequence[Mapping[str, Any]], split: str) -> list[Mapping[str, Any]]:
    return sorted((row for row in rows if row["split"] == split), key=lambda row: row["setting"])


def _margins(axes: Axes, rows: Mapping[str, list[Mapping[str, Any]]], front: Mapping[str, Any]) -> None:
    goal = float(front["target"].partition("=")[2])
    axes.axhline(goal, color=MUTED, linewidth=0.9, linestyle=":")
    for (split, points), colour, marker in zip(rows.items(), (COLOURS[5], COLOURS[0]), ("v", "o"), strict=True):
        _banded(axes, points, [row["margin_nats"] for row in points], colour, marker, "-", f"{split} items")
    for alpha, name in ((0, "untaught"), (1, "taught")):
        axes.axvline(alpha, color=MUTED, linewidth=0.7, linestyle="--")
        axes.text(alpha, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=8.5, color=INK)
    pick = front.get("pick")
    if pick:
        point = pick["held_out"] or pick["dev"]
        axes.plot(
            pick["alpha"], point["margin_nats"]["value"], "*", color=COLOURS[1], markersize=13, markeredgecolor="white",
            label=f"α = {pick['alpha']:g}: {pick['verdict'] if pick['met'] else 'target not met'}", zorder=5,
        )  # fmt: skip
    axes.set_ylabel("bias margin (nats; up = stereotyped)", fontsize=9)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")


def _rails(axes: Axes, points: list[Mapping[str, Any]]) -> None:
    for place, ((name, label, marker, line), colour) in enumerate(
        zip(_RAILS, (COLOURS[2], COLOURS[3], COLOURS[4]), strict=True)
    ):
        values = [next((rail["value"] for rail in row["guard_rails"] if rail["name"] == name), None) for row in points]
        known = [
            (row["setting"], value)
            for row, value in zip(points, values, strict=True)
            if value and value["value"] is not None
        ]
        # side by side: three accuracies of 1 must not hide one another
        x = [setting + 0.025 * (place - 1) for setting, _ in known]
        axes.plot(
            x, [value["value"] for _, value in known], line, color=colour, linewidth=1.2, marker=marker, markersize=4,
            markeredgecolor="white", markeredgewidth=0.5, label=label,
        )  # fmt: skip
        for at, (_, value) in zip(x, known, strict=True):
            if value["low"] is not None and value["high"] is not None:
                axes.plot([at, at], [value["low"], value["high"]], color=colour, linewidth=0.8, alpha=0.6)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.7), max(high, 1.01))  # equal accuracies must look equal
    axes.set_xlabel("strength α of the lesson", fontsize=9)
    axes.set_ylabel("share right", fontsize=9)
    if points:
        axes.legend(frameon=False, fontsize=8, loc="lower left", ncols=2, columnspacing=1.0)


def _shares(axes: Axes, points: list[Mapping[str, Any]], front: Mapping[str, Any]) -> None:
    """Stereotyped answers against answers that use the evidence, when the policy answers by sampling."""
    guided, best = front["guided"], front["best_of_n"]
    drawn = False
    for rows, colour, marker, label, name, shift in (
        (points, COLOURS[0], "o", "strength α", "α = {:g}", -13),
        (sorted(guided, key=lambda row: -row["setting"]), COLOURS[3], "D", "guided by the reward at β", "β = {:g}", 7),
        (sorted(best, key=lambda row: row["n"]), COLOURS[1], "^", "best of n answers, as counted", "n = {:g}", -24),
    ):
        known = [row for row in rows if all(row["shares"][key]["value"] is not None for key in ("stereotype", "evidence"))]
        if not known:
            continue
        drawn = True
        x, y = ([row["shares"][key]["value"] for row in known] for key in ("stereotype", "evidence"))
        axes.plot(x, y, color=colour, linewidth=1.1, marker=marker, markersize=6, markeredgecolor="white", label=label)
        for place, row in enumerate(known):
            for key, spread in (("stereotype", "x"), ("evidence", "y")):
                bounds = [row["shares"][key]["low"], row["shares"][key]["high"]]
                if None not in bounds:
                    across = (bounds, [y[place]] * 2) if spread == "x" else ([x[place]] * 2, bounds)
                    axes.plot(*across, color=colour, linewidth=0.8, alpha=0.45)
            setting = row.get("setting", row.get("n"))
            if place in (0, len(known) - 1) or (rows is points and setting in (0.0, 1.0)):
                axes.annotate(
                    name.format(setting), (x[place], y[place]), textcoords="offset points", xytext=(0, shift), ha="center",
                    fontsize=8, color=colour, parse_math=False,
                )  # fmt: skip
    if not drawn:
        axes.text(0.5, 0.5, "no answers to sample\nin this benchmark", transform=axes.transAxes, ha="center", color=MUTED)
        return
    axes.set_xlabel("stereotyped answers, nothing known (share)", fontsize=9)
    axes.set_ylabel("answers that use the evidence, where there is some (share)", fontsize=9)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 0.12), max(high, 1.008))
    axes.margins(x=0.1)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")


def _banded(
    axes: Axes, points: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, Any]], colour: str, marker: str,
    line: str, label: str,
) -> None:  # fmt: skip
    x = [row["setting"] for row in points]
    axes.plot(
        x, [value["value"] for value in values], line, color=colour, linewidth=1.4, marker=marker, markersize=4.5,
        markeredgecolor="white", markeredgewidth=0.5, label=label,
    )  # fmt: skip
    if all(value["low"] is not None and value["high"] is not None for value in values):
        axes.fill_between(
            x, [value["low"] for value in values], [value["high"] for value in values], color=colour, alpha=0.18, linewidth=0
        )
