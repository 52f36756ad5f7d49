"""The section of a study's report about its secondary benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teachfair.evaluation.statistics import SurvivalRow, adjusted_secondary
from teachfair.evaluation.statistics.survival import INCONCLUSIVE, LOST, NO_EFFECT, SURVIVES
from teachfair.evaluation.wording import rails_short
from teachfair.svg import plain


def corrected_together(study: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the secondary benchmarks and of the judged one, corrected as one family."""
    rows, judged = list((study.get("secondary") or {}).get("rows") or []), list(study.get("judged") or [])
    adjusted = adjusted_secondary([*rows, *judged])
    return adjusted[: len(rows)], adjusted[len(rows) :]


def secondary_section(
    study: Mapping[str, Any], rows: list[dict[str, Any]], judged: list[dict[str, Any]], fairness: list[SurvivalRow]
) -> dict[str, Any]:
    """The table of secondary benchmarks: each row with the guard-rails measured beside it or, where none is, the primary
    outcome's."""
    primary = {(row.teach, row.adapt, row.order, row.compress): rails_short(row.guard_rails) for row in fairness}
    shown = []
    for row in rows:
        own = [rail for rail in row["guard_rails"] if rail["value"]["value"] is not None]
        counts = [(s, sum(rail["status"] == s for rail in own)) for s in ("violated", "unclear", "undefined")]
        key = (row["teach"], row["adapt"], row["order"], row["compress"])
        rails = (", ".join(f"{n} {s}" for s, n in counts if n) or "ok") if own else primary.get(key, "not measured")
        shown.append(dict(row) | {"rails": rails, "own_rails": bool(own)})
    taught = [row for row in [*rows, *judged] if not row["control"]]
    left_out = (study.get("secondary") or {}).get("left_out") or {}
    return {
        "rows": shown, "judged": bool(judged), "n_tests": next((row["n_tests"] for row in taught if "n_tests" in row), 0),
        "left_out": {name: why for name, why in left_out.items() if not (name == "judged" and judged)},
        "benchmarks": list(dict.fromkeys(row["benchmark"] for row in rows)),
        "lead": _lead(rows),
    }  # fmt: skip


def _lead(rows: list[dict[str, Any]]) -> str:
    """Per benchmark, in how many taught and compressed arms the lesson survives, is lost, or is undecided."""
    parts = []
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        mine = [row for row in rows if row["benchmark"] == name and not row["control"]]
        counts = [(v, sum(row["verdict"] == v for row in mine)) for v in (SURVIVES, LOST, INCONCLUSIVE, NO_EFFECT)]
        parts.append(f"{plain(name)}: " + ", ".join(f"{v} in {n}" for v, n in counts if n) + f" of {len(mine)}")
    return "; ".join(parts)
