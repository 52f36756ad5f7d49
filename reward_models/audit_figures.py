"""Figures of the reward-model audit as inline SVG: the same input gives the same bytes, no text of it becomes markup."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = "#1a1a1a", "#595959", "#0072B2", "#D55E00"
MOST_GROUPS = 30  # more are drawn as the fifteen worst and the fifteen best
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

P = ParamSpec("P")


def plain(text: object, width: int = 1000) -> str:
    """Text without control characters and lone surrogates, cut to ``width``; still to be escaped by who writes markup."""
    found = _CONTROL.sub("\ufffd", str(text)).encode("utf-8", "replace").decode("utf-8")
    return found if len(found) <= width else found[: width - 1] + "…"


def _drawn(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw with matplotlib's defaults, whatever the user's matplotlibrc says, and restore theirs."""

    @functools.wraps(draw)
    def drawing(*args: P.args, **options: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({
                "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.color": INK,
                "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.parse_math": False,
            })  # fmt: skip
            return draw(*args, **options)

    return drawing


@_drawn
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
    return _svg(figure, "reliability", "Reliability: share of fair texts against the stated probability")


@_drawn
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
    return _svg(figure, f"groups-{name}", "False unfair rate of each group")


@_drawn
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
    return _svg(figure, "shortcuts", "Shift of the reward by each planted trait, in mean margins")


def _figure(width: float, height: float, *, left: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, 0.48 / height, 0.97 - left, 1 - 0.58 / height))
    return figure, axes


def _clean(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)


def _svg(figure: Figure, name: str, description: str) -> str:
    """Inline SVG with ids of its own, no metadata (which would carry the date), no XML head, a name for screen readers."""
    import matplotlib

    name = re.sub(r"[^\w-]", "-", name)
    stream = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = name  # inside _drawn's context
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id=")', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" '
        f'aria-label="{html.escape(description)}" style="max-width:{figure.get_figwidth() * 96 * 1.15:.0f}px">'
    )
    return opening + svg[head.end() :].strip()
