"""Figures as inline SVG for pages of one file: the same input gives the same bytes, and no text of it becomes markup."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED = "#1a1a1a", "#595959"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not allowed in XML; ESC drives terminals

P = ParamSpec("P")


def plain(text: object, width: int | None = None) -> str:
    """Text without control characters and lone surrogates, cut to ``width``; still to be escaped by who writes markup."""
    found = _CONTROL.sub("\ufffd", str(text)).encode("utf-8", "replace").decode("utf-8")
    return found if width is None or len(found) <= width else found[: width - 1] + "…"


def drawn(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw with matplotlib's defaults, whatever the user's matplotlibrc says, and restore theirs."""

    @functools.wraps(draw)
    def drawing(*args: P.args, **options: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            # fonttype none: text stays text, so it can be searched, copied and read aloud
            matplotlib.rcParams.update({
                "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": INK,
                "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.unicode_minus": True, "text.parse_math": False,
            })  # fmt: skip
            return draw(*args, **options)

    return drawing


def inline(figure: Figure, name: str, description: str) -> str:
    """Inline SVG with ids of its own, no metadata (which would carry the date), no XML head, a name for screen readers.

    To be called within :func:`drawn`.
    """
    import matplotlib

    name = re.sub(r"[^\w-]", "-", name)
    stream = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = name
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id=")', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    box, width = re.search(r'viewBox="[^"]*"', head[0]), re.search(r'width="([\d.]+)pt"', head[0])
    assert box is not None
    assert width is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" '
        f'aria-label="{html.escape(description)}" class="{name}" style="max-width:{float(width[1]) * 1.34:.0f}px">'
    )
    return opening + svg[head.end() :].strip()
