"""Numbers, intervals and guard-rails in words: the same on every page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teachfair.svg import plain

if TYPE_CHECKING:
    from teachfair.evaluation.statistics import GuardRail, Interval, SurvivalRow

DASH, MINUS = "–", "−"
KEPT, MERGED = "compress-then-align", "merge-then-recompress"
ORDERS = {
    "align-then-compress": "taught, then compressed",
    KEPT: "adapter kept on its compressed base",
    MERGED: "merged, then compressed again",
}
MARKS = {"ok": "✓", "violated": "✗", "unclear": "?", "undefined": DASH}


def number(value: float | None, digits: int = 2) -> str:
    """Fixed decimals with a true minus sign; an undefined number is a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def interval_text(interval: Interval | Mapping[str, Any], digits: int = 2) -> str:
    """``value [low, high]``; the value alone where there is no interval."""
    parts = interval if isinstance(interval, Mapping) else interval.as_dict()
    if parts["low"] is None or parts["high"] is None:
        return number(parts["value"], digits)
    return f"{number(parts['value'], digits)} [{number(parts['low'], digits)}, {number(parts['high'], digits)}]"


def size_text(n_bytes: float | None) -> str:
    if n_bytes is None or not math.isfinite(n_bytes):
        return "not recorded"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def order_text(order: str) -> str:
    return ORDERS.get(order, plain(order))


def short_cell(cell: str) -> str:
    """Arm of a cell's long name: "placebo · lora · align-then-compress · int8" -> "placebo · lora"."""
    return plain(" · ".join(cell.split(" · ")[:2]))


def unit_of(row: SurvivalRow) -> str:
    return "nats" if row.outcome.endswith("_nats") else f"units of {plain(row.outcome)}"


def rails_summary(rails: Sequence[GuardRail]) -> str:
    """Worst first: "violated: decision accuracy; unclear: …"; "all ok" only if every one is defined and ok."""
    if not rails:
        return "not measured"
    found = [
        f"{status}: {', '.join(r.name for r in rails if r.status == status)}"
        for status in ("violated", "unclear", "undefined")
        if any(r.status == status for r in rails)
    ]
    return "; ".join(found) or "all ok"


def rails_short(rails: Sequence[GuardRail]) -> str:
    """Counts for a narrow column: "1 violated, 2 unclear"; "ok" only if every one is defined and ok."""
    counts = [(s, sum(r.status == s for r in rails)) for s in ("violated", "unclear", "undefined")]
    return ", ".join(f"{n} {s}" for s, n in counts if n) or ("ok" if rails else "not measured")


def cell_name(row: SurvivalRow) -> str:
    """Arm and compression; the order only where it is not the plain one."""
    how = {MERGED: "merged and compressed again to", KEPT: "adapter kept on"}.get(row.order)
    if how:
        return f"{row.arm}, {how} {row.compress}"
    return f"{row.arm}, {row.compress}" + ("" if row.order in ORDERS else f" ({order_text(row.order)})")
