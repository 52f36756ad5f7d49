"""Figures of the report as inline SVG: the same input gives the same bytes, and no text of it becomes markup.

Colour is never alone: every compression has a marker shape too (palette: Okabe & Ito 2008). Each figure comes in a
wide and a narrow drawing, because a wide one scaled to a telephone cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teachfair.evaluation.statistics.interval import Interval
from teachfair.evaluation.statistics.survival import ABOVE, BELOW, SurvivalRow
from teachfair.svg import INK, MUTED, drawn, inline, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CROWDED = 24  # rows of the forest plot
GRID = "#d9d9d9"

# What a lesson's log is drawn as: (key of the log, title of the panel). A lesson with a "reward" is an online one.
ONLINE_CURVES = (
    ("reward", "reward"),
    ("kl", "KL, nats a token"),
    ("completions/mean_length", "answer length, tokens"),
    ("entropy", "entropy, nats a token"),
)
PREFERENCE_CURVES = (
    ("rewards/margins", "implicit reward margin"),
    ("rewards/accuracies", "chosen preferred, share"),
    ("loss", "loss"),
    ("entropy", "entropy, nats a token"),
)


def curves_of(log: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """(key, title) of the panels that a log is drawn in."""
    return ONLINE_CURVES if any("reward" in entry for entry in log) else PREFERENCE_CURVES


def series(log: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of one quantity, entries without a finite number left out."""
    found: list[tuple[Any, Any]] = [(entry.get("step"), entry.get(key)) for entry in log]
    return [(float(x), float(y)) for x, y in found if _is_number(x) and _is_number(y)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Point:
    """One cell in the plot of bias against accuracy."""

    arm: str
    compress: str
    bias: Interval
    accuracy: Interval
    order: str = ""


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each name, by sorted order so that a figure does not depend on the order of rows."""
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(sorted(set(names)))}


@drawn
def forest(rows: Sequence[SurvivalRow], *, narrow: bool = False) -> str:
    """R of every row with its interval; bands at .20 and .80. Intervals that leave the axis end in an arrow.

    Among many rows the controls that have no R, as they should, are left out: they would push the others out of sight.
    """
    from matplotlib.ticker import MultipleLocator
    from matplotlib.transforms import blended_transform_factory

    compressions = styles([r.compress for r in rows])
    if len(rows) > CROWDED:
        rows = [r for r in rows if not r.control or math.isfinite(r.r_c.value)]
    finite = [x for r in rows for x in (r.r_c.low, r.r_c.value, r.r_c.high) if math.isfinite(x)]
    left = max(min([-0.12, *(x - 0.06 for x in finite)]), -0.6)
    right = min(max([1.22, *(x + 0.06 for x in finite)]), 1.8)
    lines: list[tuple[str, SurvivalRow | None]] = []
    for each in rows:
        heading = f"{each.arm}{', its own preference' if each.own_outcome else ''}"
        if not lines or heading not in [text for text, r in lines if r is None]:
            lines.append((heading, None))
        lines.append((f"{each.compress}, {_order(each.order)}", each))
    step = 2.0 if narrow else 1.0  # narrow: the label stands above its interval
    width = 3.9 if narrow else 9.2
    height = 0.9 + 0.27 * (len(lines) + (step - 1) * sum(r is not None for _, r in lines))
    figure, axes = _figure(width, height, left=0.05 if narrow else 0.32, right=0.95 if narrow else 0.72)
    axes.axvspan(left, BELOW, color="#f6e3d6", linewidth=0)
    axes.axvspan(ABOVE, right, color="#dcebf5", linewidth=0)
    for x, style in ((0, ":"), (BELOW, "--"), (ABOVE, "--"), (1, ":")):
        axes.axvline(x, color=MUTED, linewidth=0.8, linestyle=style)
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    y = 0.0
    for text, row in lines:
        if row is None:
            y += 1
            _text(axes, 0.0 if narrow else -0.79, y, text, beside, weight="bold", clear=narrow)
            continue
        colour, marker = compressions[row.compress]
        value = _r_text(row)
        if narrow:
            y += 1
            how = {"merge-then-recompress": " merged again", "compress-then-align": " base, adapter kept"}
            _text(axes, 0.0, y, f"{row.compress}{how.get(row.order, '')}: {value}", beside, size=8.6, clear=True)
            y += 0.85
        else:
            y += 1
            _text(axes, -0.76, y, text, beside)
            _text(axes, 1.02, y, value, beside, colour=INK if math.isfinite(row.r_c.value) else MUTED)
        if math.isfinite(row.r_c.value):
            _interval(axes, row.r_c, y, left, right, colour, marker, hollow=row.control)
    axes.set_xlim(left, right)
    axes.set_ylim(y + 0.8, 0.3)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_xlabel("R, share of the taught effect left (ratio, no unit)", fontsize=8.5 if narrow else 9.5)
    for x, name in ((left, "lost"), (BELOW, "inconclusive"), (ABOVE, "survives")):
        axes.text(x + 0.015, 0.35, name, va="bottom", fontsize=8.5, color=INK, style="italic")
    return inline(
        figure, "forest-narrow" if narrow else "forest",
        "Forest plot: share R of the taught effect left after each compression, with intervals. "
        "The table below holds the same numbers.",
    )  # fmt: skip


@drawn
def bias_against_accuracy(points: Sequence[Point], unit: str, *, narrow: bool = False) -> str:
    """Bias (down is fairer) against accuracy where evidence decides (right is better), with intervals."""
    arms, shapes = styles([p.arm for p in points]), styles([p.compress for p in points])
    points = [p for p in points if math.isfinite(p.bias.value) and math.isfinite(p.accuracy.value)]
    figure, axes = _figure(
        3.9 if narrow else 8.6, 4.6 if narrow else 4.2,
        left=0.15 if narrow else 0.08, right=0.96 if narrow else 0.68, bottom=0.46 if narrow else 0.13,
    )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=":")
    for p in points:
        colour, marker = arms[p.arm][0], shapes[p.compress][1]
        for x, y in (
            ((p.accuracy.low, p.accuracy.high), (p.bias.value,) * 2), ((p.accuracy.value,) * 2, (p.bias.low, p.bias.high)),
        ):  # fmt: skip
            if all(math.isfinite(v) for v in (*x, *y)):
                axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.55)
        axes.plot(
            p.accuracy.value, p.bias.value, marker, color=colour, markersize=6.5, markeredgecolor="white",
            markeredgewidth=0.6,
        )  # fmt: skip
    low, high = axes.get_xlim()
    if high - low < 0.05:  # near-equal accuracies must look near-equal
        middle = (low + high) / 2
        axes.set_xlim(middle - 0.025, middle + 0.025)
    axes.set_xlabel("disambiguated accuracy (share right)", fontsize=9)
    axes.set_ylabel(f"bias margin ({unit})", fontsize=9)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    _legend(axes, arms, shapes, narrow)
    return inline(
        figure, "scatter-narrow" if narrow else "scatter",
        "Bias margin against disambiguated accuracy of every cell. The guard-rail table holds the same numbers.",
    )  # fmt: skip


@drawn
def planted(points: Sequence[dict[str, Any]]) -> str:
    """Measured R against the share that was left in by construction; the diagonal is a perfect instrument."""
    figure, axes = _figure(3.9, 3.3, left=0.16, right=0.96, bottom=0.16)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle="--")
    for point in points:
        x, value = float(point["expected"]), float(point["R"])
        if all(isinstance(point.get(k), (int, float)) and math.isfinite(point[k]) for k in ("low", "high")):
            axes.plot([x, x], [point["low"], point["high"]], color=COLOURS[0], linewidth=1.6)
        axes.plot(x, value, "o", color=COLOURS[0], markersize=6)
    axes.set_xlabel("planted share left (known)", fontsize=9)
    axes.set_ylabel("R as measured", fontsize=9)
    axes.grid(color=GRID, linewidth=0.5)
    return inline(figure, "planted", "Measured R against the planted share left; the table holds the same numbers.")


@drawn
def learning_curves(lessons: Sequence[Mapping[str, Any]], *, narrow: bool = False) -> str:
    """How each lesson went: one row of panels per method, a colour per adaptation, a dash pattern per control.

    Args: lessons: one per run: ``method``, ``control`` ("none" for none), ``adapt``, ``seed``, ``base``, ``log`` (entries
        with ``step``), ``alarms`` (each with ``step`` and ``quantity``).

    Thin lines are single runs, the thick one is their mean where all of them have a value. A vertical line with a flag
    is the first alarm of a run: in every panel of its row, because an exploit shows in the others too.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    methods = sorted({str(lesson["method"]) for lesson in lessons})
    adapts = _colours([str(lesson["adapt"]) for lesson in lessons])
    dashes = _dashes([str(lesson["control"]) for lesson in lessons])
    columns = 2 if narrow else 4
    rows_each = 4 // columns
    heading, panel, legend = 0.3, 1.75, 0.62 if narrow else 0.36
    width, height = (3.9 if narrow else 9.2), legend + len(methods) * (heading + rows_each * panel) + 0.1
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    left, gap = (0.5, 0.5) if narrow else (0.42, 0.44)  # inches: room for the numbers of an axis
    across = (width - left - 0.12 - (columns - 1) * gap) / columns
    top = height - legend
    for method in methods:
        mine = [lesson for lesson in lessons if str(lesson["method"]) == method]
        _words(figure, 0.03 / width, (top - 0.17) / height, method, size=10.5, weight="bold")
        for place, (key, title) in enumerate(curves_of([entry for lesson in mine for entry in lesson["log"]])):
            row, column = divmod(place, columns)
            bottom = top - heading - (row + 1) * panel + 0.5
            axes = figure.add_axes(
                ((left + column * (across + gap)) / width, bottom / height, across / width, (panel - 0.8) / height)
            )
            _panel(axes, mine, key, title, adapts, dashes)
        top -= heading + rows_each * panel
    _learning_legend(figure, adapts, dashes, narrow)
    return inline(
        figure, "learning-narrow" if narrow else "learning",
        f"Learning curves of {len(lessons)} lessons over optimiser steps: {', '.join(map(plain, methods))}. "
        "The tables below hold where each curve starts and ends, and every alarm.",
    )  # fmt: skip


def _colours(adapts: Sequence[str]) -> dict[str, str]:
    known = {"full": COLOURS[0], "lora": COLOURS[1], "qlora": COLOURS[2]}
    others = sorted(set(adapts) - set(known))
    return {name: known[name] for name in known if name in adapts} | {
        name: COLOURS[(3 + i) % len(COLOURS)] for i, name in enumerate(others)
    }


def _dashes(controls: Sequence[str]) -> dict[str, Any]:
    patterns = ((0, (4, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
    others = sorted(set(controls) - {"none"})
    return ({"none": "-"} if "none" in controls else {}) | {
        name: patterns[i % len(patterns)] for i, name in enumerate(others)
    }


def _panel(
    axes: Axes, lessons: Sequence[Mapping[str, Any]], key: str, title: str, adapts: Mapping[str, str],
    dashes: Mapping[str, Any],
) -> None:  # fmt: skip
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import blended_transform_factory

    for adapt, colour in adapts.items():
        for control, dash in dashes.items():
            found = [
                points for lesson in lessons
                if (str(lesson["adapt"]), str(lesson["control"])) == (adapt, control)
                and (points := series(lesson["log"], key))
            ]  # fmt: skip
            style = {"color": colour, "linestyle": dash, "solid_joinstyle": "round"}
            for points in found:
                axes.plot(*zip(*points, strict=True), linewidth=0.6, alpha=0.45 if len(found) > 1 else 0.0, **style)
            shared = set.intersection(*({x for x, _ in points} for points in found)) if found else set()
            mean = [(x, sum(dict(points)[x] for points in found) / len(found)) for x in sorted(shared)]
            if mean:
                axes.plot(*zip(*mean, strict=True), linewidth=1.5, marker="o" if len(mean) == 1 else "", **style)
    if not axes.lines:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color=MUTED)
        axes.set_yticks([])
    at_top = blended_transform_factory(axes.transData, axes.transAxes)
    for lesson in lessons:
        steps = [float(alarm["step"]) for alarm in lesson.get("alarms") or [] if _is_number(alarm.get("step"))]
        if steps:
            colour = adapts[str(lesson["adapt"])]
            axes.axvline(min(steps), color=colour, linewidth=0.8, linestyle=dashes[str(lesson["control"])], alpha=0.7)
            axes.plot(
                min(steps), 1.0, "v", color=colour, markeredgecolor=INK, markeredgewidth=0.5, markersize=5,
                transform=at_top, clip_on=False,
            )  # fmt: skip
    axes.set_title(title, fontsize=8.5, loc="left", pad=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("step", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=8, color=MUTED, labelcolor=INK, length=2.5, pad=2)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _learning_legend(figure: Figure, adapts: Mapping[str, str], dashes: Mapping[str, Any], narrow: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=3) for colour in adapts.values()]
    handles += [Line2D([], [], color=INK, linewidth=1.4, linestyle=dash) for dash in dashes.values()]
    names = [*adapts, *("taught" if name == "none" else name for name in dashes)]
    handles.append(Line2D([], [], color=MUTED, marker="v", markersize=5, linewidth=0.8))
    names.append("first alarm")
    legend = figure.legend(
        handles, [plain(name)[:24] for name in names], frameon=False, fontsize=8.5, ncols=3 if narrow else len(names),
        loc="upper left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, columnspacing=1.2, handlelength=2.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _words(figure: Figure, x: float, y: float, text: str, *, size: float, weight: str) -> None:
    figure.text(x, y, plain(text)[:60], fontsize=size, weight=weight, color=INK, va="center", parse_math=False)


def _order(order: str) -> str:
    return {
        "align-then-compress": "taught, then compressed",
        "compress-then-align": "kept on its compressed base",
        "merge-then-recompress": "merged, then compressed again",
    }.get(order, order)


def _r_text(row: SurvivalRow) -> str:
    if not math.isfinite(row.r_c.value):
        return row.verdict if row.gate is False else "R undefined"
    return f"{row.r_c.value:.2f} [{row.r_c.low:.2f}, {row.r_c.high:.2f}] {row.verdict}".replace("-", "−")


@drawn
def bias_reading(reading: Mapping[str, Any], before: Mapping[str, Any] | None = None, *, name: str = "bias") -> str:
    """One bias number with its interval on its own axis, its target as a line, and the baseline's below it.

    Args: reading, before: ``BiasReading.as_dict()`` of the model and of a baseline. name: of the figure, unique on its page.
    """
    lines = [("this model", reading, COLOURS[0], MARKERS[0], False)]
    if before is not None:
        lines.append(("baseline", before, COLOURS[1], MARKERS[1], True))
    lines = [line for line in lines if line[1]["value"]["value"] is not None]
    target = float(reading["target"])
    ends = [x for _, one, *_ in lines for key in ("low", "value", "high") if (x := one["value"][key]) is not None]
    span = max([*ends, target]) - min([*ends, target]) or 1.0
    left, right = min([*ends, target]) - 0.08 * span, max([*ends, target]) + 0.08 * span
    height = 0.78 + 0.42 * len(lines)
    figure, axes = _figure(3.7, height, left=0.05, right=0.95)
    axes.axvline(target, color=INK, linewidth=1, linestyle="--")
    beside = axes.get_xaxis_transform()
    axes.text(target, 1.0, "target", transform=beside, va="bottom", ha="center", fontsize=8, style="italic", color=INK)
    for y, (text, one, colour, marker, hollow) in enumerate(lines):
        parts = one["value"]
        value, low, high = (math.nan if parts[key] is None else float(parts[key]) for key in ("value", "low", "high"))
        _text(axes, 0.0, y - 0.33, text, axes.get_yaxis_transform(), size=8.4, clear=True)
        _interval(axes, Interval(value, low, high), y, left, right, colour, marker, hollow=hollow)
    axes.set_xlim(left, right)
    axes.set_ylim(len(lines) - 0.5, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{plain(reading['metric'], 40)}, {plain(reading['unit'], 20)}", fontsize=8.5, parse_math=False)
    figure.subplots_adjust(top=1 - 0.22 / height)
    return inline(
        figure, name,
        f"{plain(reading['benchmark'])}: the bias number with its interval and its target"
        f"{', and the baseline' if before is not None else ''}. The text beside it holds the same numbers.",
    )  # fmt: skip


@drawn
def equal_utility_figure(
    against: Mapping[str, Any], reading: Mapping[str, Any], *, name: str = "front", narrow: bool = False
) -> str:
    """Bias against utility: a front as a line through its numbered points, and the model with its interval on that line.

    Args: against: ``AgainstFront.as_dict()``; reading: ``BiasReading.as_dict()`` of the model. name: unique on its page.

    The model's thick bar is the interval of its difference from the front at the same utility, laid at the front's value
    there: a bar that does not reach the line is a clear difference. Intervals of the points are of each alone, the
    difference's is paired, so the two are not to be compared.
    """
    figure, axes = _figure(
        3.9 if narrow else 6.4, 3.5 if narrow else 3.3, left=0.17 if narrow else 0.11, right=0.96, bottom=0.17,
    )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=1, linestyle="--")
    points, model, sign = against["points"], against["model"], 1.0 if against["higher_is_better"] else -1.0
    parity = reading["higher"] == "parity"
    line = [points[place] for place in against["line"]]
    axes.plot(
        [p["utility"]["value"] for p in line], [p["bias"]["value"] for p in line], color=COLOURS[1], linewidth=1.6, zorder=2
    )
    x, y = float(model["utility"]["value"]), float(model["bias"]["value"])
    best = line[-1]
    if sign * (x - best["utility"]["value"]) > 0:  # more useful than the front: held against its most useful point
        ends = [best["utility"]["value"], x]
        axes.plot(ends, [best["bias"]["value"]] * 2, color=COLOURS[1], linewidth=1.2, linestyle=":", zorder=2)
    for place, point in enumerate(points):
        at, bias = float(point["utility"]["value"]), point["bias"]
        if bias["low"] is not None:
            floor = 0.0 if parity else -math.inf  # a distance has no negative part
            ends = [max(bias["low"], floor), bias["high"]]
            axes.plot([at, at], ends, color=COLOURS[1], linewidth=0.9, alpha=0.55, zorder=2)
        used = place in against["line"]
        axes.plot(
            at, bias["value"], MARKERS[1], color=COLOURS[1], markerfacecolor="white", markersize=6 if used else 4,
            markeredgewidth=1.4, zorder=3,
        )  # fmt: skip
    gap = against["difference"]
    if gap["low"] is not None and against["by_utility"]:
        theirs = float(against["by_utility"][0]["second"])
        bar = [theirs + gap["low"], theirs + gap["high"]]
        axes.plot([x, x], bar, color=COLOURS[0], linewidth=3.2, solid_capstyle="butt", zorder=4)
    axes.plot(x, y, "D", color=COLOURS[0], markersize=8, markeredgecolor="white", markeredgewidth=0.8, zorder=5)
    axes.margins(x=0.16, y=0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.04 * (high - low)), high)
    beside = axes.get_yaxis_transform()
    axes.text(0.0, 0, " target", transform=beside, va="bottom", ha="left", fontsize=8, style="italic", color=INK)
    if sign < 0:
        axes.invert_xaxis()
    labels = [("this model", x, y), *(
        (f"{place} baseline" if place == 0 else str(place), float(p["utility"]["value"]), float(p["bias"]["value"]))
        for place, p in enumerate(points)
    )]  # fmt: skip
    _labelled(axes, labels, marked=[(x, y), *((p["utility"]["value"], p["bias"]["value"]) for p in points)])
    axes.set_xlabel(f"{plain(against['utility'], 40)} (right is more useful)", fontsize=9, parse_math=False)
    what = "distance from target" if parity else "bias (up is more)"
    axes.set_ylabel(f"{what}, {plain(reading['unit'], 20)}", fontsize=9, parse_math=False)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    return inline(
        figure, name,
        f"{plain(reading['benchmark'])}: bias against {plain(against['utility'])}; the front is a line, this model a "
        "diamond. The sentence above and the table below hold the same numbers.",
    )  # fmt: skip


def _labelled(axes: Axes, labels: Sequence[tuple[str, float, float]], *, marked: Sequence[tuple[float, float]]) -> None:
    """Write each label beside its point (data coordinates), at the first place around it that is free and in the picture."""
    scale = axes.figure.dpi / 72
    left, bottom, width, height = axes.bbox.bounds
    taken = [(u - 4 * scale, v - 4 * scale, u + 4 * scale, v + 4 * scale) for u, v in axes.transData.transform(marked)]
    for text, x, y in sorted(labels, key=lambda label: -label[2]):  # from above, so that neighbours' labels keep their order
        u, v = axes.transData.transform((x, y))
        wide, high = 5.4 * len(text) * scale, 8 * scale
        sides = [(7, 3), (7, -11), (-7, 3), (-7, -11), (0, 9), (0, -17), (18, 3), (-18, 3), (18, -11), (-18, -11)]
        boxes = []
        for dx, dy in sides:
            start = u + dx * scale - (wide if dx < 0 else wide / 2 if dx == 0 else 0)
            boxes.append((start, v + dy * scale, start + wide, v + dy * scale + high))

        def free(box: tuple[float, float, float, float]) -> bool:
            inside = left <= box[0] and box[2] <= left + width and bottom <= box[1] and box[3] <= bottom + height
            return inside and not any(
                box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken
            )

        at = next((place for place, box in enumerate(boxes) if free(box)), 0)
        taken.append(boxes[at])
        dx, dy = sides[at]
        axes.annotate(
            text, (x, y), textcoords="offset points", xytext=(dx, dy), fontsize=8.5, color=INK, zorder=6,
            ha="right" if dx < 0 else "center" if dx == 0 else "left",
        )  # fmt: skip


def _figure(width: float, height: float, *, left: float, right: float, bottom: float | None = None) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.subplots_adjust(left=left, right=right, top=1 - 0.12 / height, bottom=bottom or 0.52 / height)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5, color=MUTED, labelcolor=INK)
    return figure, axes


def _text(
    axes: Axes, x: float, y: float, text: str, transform: Any, *, size: float = 9.2, weight: str = "normal",
    colour: str = INK, clear: bool = False,
) -> None:  # fmt: skip
    text = plain(text)
    if len(text) > 52:
        text = text[:51] + "…"
    # parse_math=False: a name with two dollar signs is a name, not a formula (and not a crash)
    axes.text(
        x, y, text, transform=transform, va="center", ha="left", fontsize=size, weight=weight, color=colour,
        parse_math=False, clip_on=False, zorder=4,
        bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.8} if clear else None,
    )  # fmt: skip


def _interval(
    axes: Axes, r: Interval, y: float, left: float, right: float, colour: str, marker: str, *, hollow: bool
) -> None:
    low, high = (r.low, r.high) if math.isfinite(r.low) and math.isfinite(r.high) else (r.value, r.value)
    axes.plot([max(low, left), min(high, right)], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    if low < left:
        axes.plot(left, y, "<", color=colour, markersize=6, clip_on=False)
    if high > right:
        axes.plot(right, y, ">", color=colour, markersize=6, clip_on=False)
    if left <= r.value <= right:
        face = "white" if hollow else colour
        axes.plot(r.value, y, marker, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.4)


def _legend(axes: Axes, arms: dict[str, tuple[str, str]], shapes: dict[str, tuple[str, str]], narrow: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=4) for colour, _ in arms.values()]
    handles += [Line2D([], [], color=MUTED, marker=m, linestyle="", markersize=6.5) for _, m in shapes.values()]
    names = [plain(n)[:34] for n in (*arms, *shapes)]
    legend = axes.legend(
        handles, names, frameon=False, fontsize=8.5, ncols=2 if narrow else 1, borderaxespad=0,
        loc="upper left", bbox_to_anchor=(-0.1, -0.2) if narrow else (1.03, 1.0), columnspacing=1.0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
