"""What a study's report says about how its lessons were learned: the reward model's accuracy, and curves with alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from teachfair.evaluation.figures import curves_of, series


def reward_page(page: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy per kind beside the rulers that understand nothing, and the disagreements with given labels."""

    def listed(value: Any, name: str) -> list[dict[str, Any]]:
        if isinstance(value, Mapping):
            return [
                {name: k, **(v if isinstance(v, Mapping) else {"accuracy": v})} for k, v in value.items()
            ]  # fmt: skip
        return [dict(v) for v in value or []]

    accuracy = listed(page.get("accuracy"), "kind")
    rulers = listed(page.get("shortcuts") or page.get("baselines"), "ruler")
    names = list(dict.fromkeys(str(r.get("ruler", "")) for r in rulers))
    table = []
    for line in accuracy:
        kind = line.get("kind", "all")
        beside = {
            str(r.get("ruler")): finite(r.get("accuracy")) for r in rulers if r.get("kind", "all") in (kind, None)
        }  # fmt: skip
        best = max((v for v in beside.values() if v is not None), default=None)
        own = finite(line.get("accuracy"))
        table.append({
            "kind": kind, "n": line.get("n"), "beside": [beside.get(name) for name in names],
            "own": {"value": own, "low": finite(line.get("low")), "high": finite(line.get("high"))},
            "ruled": best is not None and own is not None and own <= best,
        })  # fmt: skip
    ranking = page.get("ranking") or page.get("disagreements")
    disagreements: list[dict[str, Any]] = []
    treatment = ""
    if isinstance(ranking, Mapping):
        treatment = str(ranking.get("on_disagreement", ""))
        per_kind = ranking.get("per_kind")
        disagreements = listed(per_kind, "kind") if per_kind else [{"kind": "all", **ranking}]
    elif isinstance(ranking, (int, float)):
        disagreements = [{"kind": "all", "disagree": ranking}]
    for line in disagreements:
        for short, long in (("n", "n_pairs"), ("agree", "n_agree"), ("disagree", "n_disagree"), ("ties", "n_tie")):
            line.setdefault(short, line.get(long))
    return {
        "table": table, "rulers": names, "disagreements": disagreements, "treatment": treatment,
        "calibration": page.get("calibration"), "n_train": page.get("n_train"), "n_eval": page.get("n_eval"),
        "elsewhere": listed(page.get("untaught_axis"), "kind"), "hash": page.get("hash"),
        "given": bool(page) and bool(table or disagreements),
    }  # fmt: skip


def learning_page(lessons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lessons that have a log, where their curves start and end per arm, and their alarms. ``bare``: without the logs."""
    kept: list[dict[str, Any]] = [
        {"control": "none", "adapt": "", "seed": "", "base": "", "alarms": [], "watched": False} | dict(lesson)
        for lesson in lessons
        if any(series(lesson["log"], key) for key, _ in curves_of(lesson["log"]))
    ]
    arms: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for lesson in kept:
        arms.setdefault(tuple(str(lesson[name]) for name in ("method", "adapt", "control")), []).append(lesson)
    tables: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = {}
    for (method, adapt, control), members in sorted(arms.items(), key=lambda arm: (arm[0][0], arm[0][2] != "none", arm[0])):
        curves = curves_of(members[0]["log"])
        ends = []
        for key, _ in curves:
            found = [points for lesson in members if (points := series(lesson["log"], key))]
            ends.append(
                [sum(points[place][1] for points in found) / len(found) for place in (0, -1)] if found else [None, None]
            )
        tables.setdefault(curves, []).append(
            {"name": _lesson_name(method, control), "adapt": adapt, "n": len(members), "ends": ends}
        )
    alarms = [
        {"name": _lesson_name(str(lesson["method"]), str(lesson["control"])),
         **{name: lesson[name] for name in ("adapt", "seed", "base")},
         "first": {k: lesson["alarms"][0].get(k) for k in ("step", "quantity", "direction", "meaning")}
         | {k: finite(lesson["alarms"][0].get(k)) for k in ("baseline", "value", "limit")},
         "later": ", ".join(f"{alarm.get('quantity')} ({alarm.get('step')})" for alarm in lesson["alarms"][1:])}
        for lesson in kept
        if lesson["alarms"]
    ]  # fmt: skip
    return {
        "lessons": kept, "alarms": alarms, "watched": sum(bool(lesson["watched"]) for lesson in kept),
        "warned": sum(bool(lesson["alarms"]) for lesson in kept),
        "tables": [{"titles": [title for _, title in curves], "arms": table} for curves, table in tables.items()],
        "bare": [{k: v for k, v in lesson.items() if k != "log"} for lesson in lessons],
    }  # fmt: skip


def _lesson_name(method: str, control: str) -> str:
    return method if control == "none" else f"{control}-{method}"


def finite(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
