"""What ``knowledge`` found, as a page of one file: the verdict, its numbers, and decodability by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from teachfair.evaluation.figures import COLOURS, GRID, MARKERS
from teachfair.runs import write_text
from teachfair.svg import MUTED, drawn, inline, plain


@drawn
def decodability_figure(found: Mapping[str, Any]) -> str:
    """Accuracy of a linear probe at each layer for unseen names, with 95 % intervals; the control task's; chance.

    Args: found: what ``knowledge`` returns.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.5))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.1, right=0.98, top=0.96, bottom=0.24)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    lines = (
        ("untaught: group", "untaught", "accuracy", 2, "-"), ("this model: group", "policy", "accuracy", 0, "-"),
        ("this model: control task", "policy", "control", 1, "--"),
    )  # fmt: skip
    for place, (label, side, key, style, dash) in enumerate(lines):
        layers = found[side]["decodability"]["layers"]
        x = [layer["site"] + (place - 1) * 0.06 for layer in layers]  # side by side: equal values stay visible
        values = [layer[key]["value"] for layer in layers]
        axes.plot(x, values, dash, marker=MARKERS[style], color=COLOURS[style], label=label, linewidth=1.4, markersize=5)
        for at, layer in zip(x, layers, strict=True):
            if layer[key]["low"] is not None:
                axes.plot([at, at], [layer[key]["low"], layer[key]["high"]], color=COLOURS[style], linewidth=1.4)
    chance = found["policy"]["decodability"]["chance"]
    axes.axhline(chance, color=MUTED, linewidth=0.9, linestyle=":", label="chance")
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer (0: what enters the first block)")
    axes.set_ylabel("accuracy, unseen names")
    figure.legend(frameon=False, fontsize=8.5, loc="lower center", ncols=4, handlelength=1.6, columnspacing=1.2)
    best = found["policy"]["decodability"]["nested_accuracy"]["value"]
    return inline(
        figure, "decodability",
        f"Linear probe for {plain(found['axis'])} by layer. Best layer, chosen within training names: {best:.2f}, chance "
        f"{chance:.2f}",
    )  # fmt: skip


def write_page(found: Mapping[str, Any], out: str | Path) -> Path:
    """The page at ``out``. No script, nothing loaded; text of the models' names is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"text": plain, "num": number}
    page = environment.get_template("knowledge.html.j2").render(found=found, figure=decodability_figure(found))
    return write_text(out, page)


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def knowledge_lines(found: Mapping[str, Any]) -> Sequence[str]:
    """For a terminal: the verdict, its reasons, and one line a quantity."""
    lines = [f"verdict: {found['verdict']}", *(f"  {plain(reason)}" for reason in found["reasons"]), ""]
    lines.append(f"{'':14}{'untaught':>10}{'here':>8}{'change':>9}  95 % interval")
    for name, change in found["changes"].items():
        interval = change["change"]
        if interval["value"] is None:
            lines.append(f"{name:14}{'–':>10}{'–':>8}{'–':>9}  {plain(interval['reason'])}")
            continue
        lines.append(
            f"{name:14}{number(change['untaught']):>10}{number(change['here']):>8}{number(interval['value']):>9}  "
            f"[{number(interval['low'])}, {number(interval['high'])}] {change['unit']}"
        )
    return lines
