"""The report of a study: one self-contained page, tables for machines, and a table for the terminal.

``report.html`` makes no request and runs no script (content-security policy), escapes all data, and is the same byte
for byte for the same input. Every bias number stands beside its guard-rails.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import InputError
from teachfair.evaluation.figures import (
    Point,
    bias_against_accuracy,
    forest,
    learning_curves,
    planted,
)
from teachfair.evaluation.report_lessons import finite, learning_page, reward_page
from teachfair.evaluation.secondary_section import corrected_together, secondary_section
from teachfair.evaluation.statistics import (
    GuardRail,
    Interval,
    SurvivalRow,
    WorstGroup,
    detectable_effect,
    guard_rails,
    item_changes,
    variance_ledger,
    worst_group,
)  # fmt: skip
from teachfair.evaluation.statistics.cells import control_and_method, untaught
from teachfair.evaluation.statistics.survival import ABOVE, BELOW, INCONCLUSIVE, LOST, NO_EFFECT, SURVIVES
from teachfair.evaluation.wording import (
    DASH,
    KEPT,
    MARKS,
    MERGED,
    cell_name,
    interval_text,
    number,
    order_text,
    rails_short,
    rails_summary,
    short_cell,
    size_text,
    unit_of,
)
from teachfair.svg import plain

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

VERDICT_MARKS = {SURVIVES: "●", LOST: "○", INCONCLUSIVE: "◐", NO_EFFECT: DASH}
STUDY_KEYS = (
    "title", "created", "commands", "versions", "bases", "cells", "reward_model", "calibration", "transfer", "forced",
    "secondary", "judged", "judge", "norm", "limits", "platform", "wall_seconds", "peak_gib", "config", "leaks",
    "steps_made", "steps_reused", "learning", "guards",
)  # fmt: skip
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_report(study: Mapping[str, Any], records: pd.DataFrame, rows: Sequence[SurvivalRow], out: str | Path) -> Path:
    """Write ``report.html`` (or into ``out`` if that is a folder) and return its path.

    Args: study: what ran; every key is optional, an absent one is said to be not recorded: title, created, commands,
        versions, bases, cells (teach, adapt, compress, order, seed, base, bytes, bits_per_parameter, hash, seconds),
        reward_model (accuracy, shortcuts, ranking), calibration (expected, R, low, high), transfer (rows as dicts, of
        an axis that was not taught), forced (rows as dicts, on the margin between the two people),
        secondary (``secondary_survival``'s: rows as dicts, left_out), judged (rows as dicts, on the judge's score, each with
        ``costs``); the two are corrected together, by Benjamini-Hochberg; and judge (folder, hash, accuracy), norm, limits,
        platform, wall_seconds, peak_gib, config, leaks, learning (one per taught run: method, control, adapt, seed, base,
        log, alarms, watched: whether a hack watch looked).
        records: the per-item records that ``rows`` were computed from.
    """
    import jinja2

    out = Path(out)
    path = out / "report.html" if out.is_dir() else out
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "num": number, "ci": interval_text, "size": size_text, "text": plain, "order": order_text, "short_cell": short_cell,
    }  # fmt: skip
    page = environment.get_template("report.html.j2").render(**_context(study, records, list(rows)))
    return runs.write_text(path, plain_page(page))


def write_tables(rows: Sequence[SurvivalRow], out: str | Path) -> tuple[Path, Path]:
    """``survival.csv`` and ``survival.json`` in the folder ``out``.

    Text that a spreadsheet would run as a formula is prefixed by an apostrophe in the CSV; the JSON keeps it as it is.
    """
    out = Path(out)
    table = [_flat(row) for row in rows]
    stream = io.StringIO()
    names = list(table[0]) if table else ["teach", "adapt", "order", "compress", "verdict"]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _safe(v) for k, v in line.items()} for line in table)
    as_csv = runs.write_text(out / "survival.csv", plain_page(stream.getvalue()))
    as_json = runs.write_json(out / "survival.json", _clean([row.as_dict() for row in rows]))
    return as_csv, as_json


def print_table(rows: Sequence[SurvivalRow], console: Console) -> None:
    """The survival table for a terminal; text from data is printed as text, never as markup or control codes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console.print(Text("no arm was taught and compressed: there is nothing to compare"))
        return
    unit = unit_of(rows[0])
    # expand columns that must not be cut; a narrow terminal folds the words instead
    table = Table(box=box.SIMPLE_HEAD, title=Text(f"Does the lesson survive? Bias margin and D in {unit}"), pad_edge=False)
    for name, numeric in (
        ("arm", False), ("compression", False), ("bias", True), ("D0", True), ("D_c", True), ("Δ", True),
        ("R [95 %]" if rows[0].confidence == 0.95 else "R", False), ("verdict", False), ("guard-rails", False),
    ):  # fmt: skip
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    styles = {SURVIVES: "green", LOST: "red", INCONCLUSIVE: "yellow", NO_EFFECT: "dim"}
    for row in rows:
        name = plain(f"{row.teach} {row.adapt}{' (own preference)' if row.own_outcome else ''}")
        how = plain(row.compress) + {MERGED: ", merged first", KEPT: ", adapter kept"}.get(row.order, "")
        table.add_row(
            Text(name), Text(how), Text(number(row.taught_c.value)), Text(number(row.d0.value)), Text(number(row.d_c.value)),
            Text(number(row.delta_c.value)), Text(interval_text(row.r_c)), Text(row.verdict, style=styles[row.verdict]),
            Text(rails_short(row.guard_rails)),
        )  # fmt: skip
    console.print(table)
    for text in (lead_sentence(rows), *verdict_sentences(rows)):
        console.print(Text(plain(text)))


# --- words ----------------------------------------------------------------------------------------------------


def lead_sentence(rows: Sequence[SurvivalRow]) -> str:
    """The answer in one sentence: how many compressed arms keep the lesson, and at what cost."""
    taught = [r for r in rows if not r.control]
    if not taught:
        return "No taught arm was compressed: there is no verdict."
    counts = {v: sum(r.verdict == v for r in taught) for v in (SURVIVES, LOST, INCONCLUSIVE, NO_EFFECT)}
    parts = [f"the taught fairness survives in {counts[SURVIVES]}"]
    parts += [f"is lost in {counts[LOST]}"] if counts[LOST] else []
    parts += [f"is undecided in {counts[INCONCLUSIVE]}"] if counts[INCONCLUSIVE] else []
    parts += [f"was not there to be kept in {counts[NO_EFFECT]}"] if counts[NO_EFFECT] else []
    joined = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    broken = sum(any(g.status == "violated" for g in r.guard_rails) for r in taught)
    clear = all(g.status == "ok" for r in taught for g in r.guard_rails) and all(r.guard_rails for r in taught)
    rails = f"guard-rails are violated in {broken}" if broken else (
        "every guard-rail holds" if clear else "no guard-rail is violated, but not every one could be confirmed"
    )  # fmt: skip
    return f"Of {len(taught)} taught and compressed arm{'s' if len(taught) != 1 else ''}, {joined}; {rails}."


def verdict_sentences(rows: Sequence[SurvivalRow]) -> list[str]:
    """The arms behind :func:`lead_sentence`: one sentence per verdict, then the violated guard-rails."""
    taught = [r for r in rows if not r.control]
    sentences = []
    for verdict, words in (
        (SURVIVES, "Survives"), (LOST, "Lost"), (INCONCLUSIVE, "Undecided"), (NO_EFFECT, "Nothing taught to retain"),
    ):  # fmt: skip
        members = [r for r in taught if r.verdict == verdict]
        if members:
            names = "; ".join(
                cell_name(r) + (f": R = {interval_text(r.r_c)}" if math.isfinite(r.r_c.value) else "") for r in members
            )
            sentences.append(f"{words}: {names}.")
    broken = [r for r in taught if any(g.status == "violated" for g in r.guard_rails)]
    if broken:
        names = "; ".join(
            f"{cell_name(r)} ({', '.join(g.name for g in r.guard_rails if g.status == 'violated')})" for r in broken
        )
        sentences.append(f"Guard-rail violated, so less bias is not yet fairness: {names}.")
    return sentences


def margin_sentence(rows: Sequence[SurvivalRow]) -> str:
    percent = f"{rows[0].confidence:.0%}".replace("%", " %") if rows else "95 %"
    return (
        f"Margins: “survives” = the {percent} interval of R lies above {ABOVE:.2f}; “lost” = below {BELOW:.2f}; otherwise "
        "“inconclusive”. Verdicts are Holm-adjusted over the compressed arms of the study, printed intervals are not. "
        "R is read only where the taught effect D₀ is clear: its interval excludes 0 and D₀ is at least 3 standard errors."
    )


def merged_sentences(rows: Sequence[SurvivalRow]) -> list[str]:
    """The practitioner's question: QLoRA merged on its own base and compressed again on the same grid.

    Two sentences per such row, from its numbers, whichever way they point; nothing if there is no such row.
    """
    found = []
    for row in rows:
        if row.control or row.order != MERGED or "qlora" not in row.adapt.lower():
            continue
        kept = [r for r in rows if (r.teach, r.adapt, r.order) == (row.teach, row.adapt, KEPT)]
        same_grid = row.compress in {r.compress for r in kept} if kept else row.compress == "nf4"
        if not same_grid:
            continue
        others = [
            r for r in rows
            if (r.teach, r.adapt, r.order) == (row.teach, row.adapt, MERGED) and r.compress != row.compress
        ]  # fmt: skip
        instead = [f"keep the adapter on its {r.compress} base (R = {interval_text(r.r_c)}, {r.verdict})" for r in kept]
        instead += [f"compress the merged model on another grid ({r.compress}: R = {interval_text(r.r_c)}, {r.verdict})"
                    for r in others]  # fmt: skip
        name, r_text = f"{row.teach} · {row.adapt}", interval_text(row.r_c)
        if row.verdict == LOST:
            found.append(
                f"{name} was taught on a base that already lies on the {row.compress} grid; when it is merged and "
                f"compressed on that same grid again, small weight changes are rounded back to where they started: of "
                f"a taught effect of {number(row.d0.value)} {unit_of(row)} only {number(row.d_c.value)} is left "
                f"(R = {r_text}). "
                + (f"Instead, {' or '.join(instead)}." if instead else "No other order was measured here.")
            )
        elif row.verdict == NO_EFFECT:
            found.append(
                f"{name}, merged on its own base and compressed to {row.compress} again, cannot be judged: {row.reason}. "
                "Elsewhere this order was seen to round the lesson away, so measure it before relying on it."
            )
        else:
            found.append(
                f"{name}, merged on its own base and compressed to {row.compress} again, was not shown to lose its lesson "
                f"here: R = {r_text}, {row.verdict}, {number(row.d_c.value)} of {number(row.d0.value)} {unit_of(row)} left. "
                "A base that already lies on this grid can round small merged changes away"
                + (
                    f"; the alternatives measured here are to {' or to '.join(instead)}."
                    if instead
                    else ", so measure again where the lesson is smaller."
                )
            )
    return found


# --- what the page shows --------------------------------------------------------------------------------------


def _context(study: Mapping[str, Any], records: pd.DataFrame, rows: list[SurvivalRow]) -> dict[str, Any]:
    study = dict.fromkeys(STUDY_KEYS) | dict(study)
    fairness = [r for r in rows if not r.own_outcome]
    first = rows[0] if rows else None
    unit = unit_of(first) if first else "nats"
    bases = [
        {"name": b.get("name"), "hash": b.get("hash")} if isinstance(b, Mapping) else {"name": str(b), "hash": None}
        for b in study["bases"] or []
    ]
    benchmark = None
    if "benchmark" in records.columns and first is not None:
        here = records.loc[records["condition"] == first.condition, "benchmark"].unique()
        benchmark = str(here[0]) if len(here) == 1 else None
    rails = guard_rails(records, benchmark=benchmark, guards=study["guards"] or ()) if rows else {}
    untaught_rails = rails.get(untaught("none"), ())
    points = _points(fairness, untaught_rails)
    calibration = [_numbers(c) for c in study.get("calibration") or []]
    transfer = [r.as_dict() if isinstance(r, SurvivalRow) else dict(r) for r in study.get("transfer") or []]
    sizes = {_key(r): _sizes(study, r) for r in rows}
    secondary, judged = corrected_together(study)
    learning = learning_page(study.get("learning") or [])
    graphics: dict[str, list[str]] = {"forest": [], "scatter": [], "planted": [], "learning": []}
    if rows:
        graphics["forest"] = [forest(rows), forest(rows, narrow=True)]
    if any(math.isfinite(p.accuracy.value) for p in points):
        graphics["scatter"] = [bias_against_accuracy(points, unit, narrow=n) for n in (False, True)]
    if learning["lessons"]:
        graphics["learning"] = [learning_curves(learning["lessons"], narrow=n) for n in (False, True)]
    if calibration:
        graphics["planted"] = [planted([c for c in calibration if c["R"] is not None])]
    return {
        "study": study,
        "title": study.get("title") or "Does taught fairness survive compression?",
        "rows": rows,
        "first": first,
        "unit": unit,
        "lead": lead_sentence(rows),
        "verdicts": verdict_sentences(rows),
        "margins": margin_sentence(rows),
        "about": _about(rows, bases),
        "graphics": {k: [_trusted(g) for g in v] for k, v in graphics.items()},
        "sizes": sizes,
        "key": _key,
        "taught_before": _one_per_arm(rows),
        "ledger": _ledger(records, rows, benchmark),
        "bases_named": any(r.n_bases > 1 for r in rows),
        "rail_rows": _rail_rows(rows, untaught_rails),
        "merged": merged_sentences(rows),
        "controls": [r for r in rows if r.control],
        "transfer": transfer,
        "transfer_arms": _transfer_arms(transfer, rows),
        "forced_arms": _forced_arms(study.get("forced") or []),
        "secondary": secondary_section(study, secondary, judged, fairness),
        "judged": judged,
        "judge": dict(study.get("judge") or {}),
        "calibration": calibration,
        "reward": reward_page(study.get("reward_model") or {}),
        "learning": learning,
        "limits": _limits(study, rows, bases, transfer),
        "examples": _examples(records, rows, benchmark),
        "changes": _changes(records, rows, benchmark),
        "worst": _worst(records, rows, benchmark),
        "bases": bases,
        "marks": MARKS,
        "verdict_marks": VERDICT_MARKS,
        "rails_summary": rails_summary,
        "rails_short": rails_short,
        "settings": _settings(study),
        "cells": [dict(c) for c in study.get("cells") or []],
        "machine": json.dumps(
            _clean({
                "study": dict(study) | {"learning": learning["bare"], "judged": judged}
                | ({"secondary": dict(study["secondary"]) | {"rows": secondary}} if study["secondary"] else {}),
                "rows": [r.as_dict() for r in rows],
            }),
            indent=1, sort_keys=True, ensure_ascii=False, default=str,
        ),
    }  # fmt: skip


def _key(row: SurvivalRow) -> tuple[str, str, str, str]:
    return (row.teach, row.adapt, row.order, row.compress)


def _trusted(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # made by figures.py, whose text is escaped by matplotlib's SVG writer


def _about(rows: list[SurvivalRow], bases: list[Any]) -> str:
    if not rows:
        return ""
    n = max(max(r.n_bases for r in rows), 1)
    if n == 1:
        name = plain(bases[0]["name"] or "") if len(bases) == 1 else ""
        return (
            f"One base model{f' ({name})' if name else ''}: every verdict is about that base. A quantiser is one draw per "
            "base, and intervals over items and seeds do not cover how other bases would differ."
        )
    few = " Two bases leave one degree of freedom, so intervals are wide." if n == 2 else ""
    return f"{n} base models, resampled as the top level: intervals cover how they differ.{few}"


def _one_per_arm(rows: list[SurvivalRow]) -> list[SurvivalRow]:
    seen: dict[tuple[Any, ...], SurvivalRow] = {}
    for row in rows:
        seen.setdefault((row.teach, row.adapt, row.own_outcome, row.taught_none), row)
    return list(seen.values())


def _ledger(records: pd.DataFrame, rows: list[SurvivalRow], benchmark: str | None) -> list[dict[str, Any]]:
    """Variance components of D0 per taught arm, and the effect that such a study can detect."""
    taught = {(r.teach, r.adapt) for r in rows if not r.control}
    if not taught or rows[0].parity:
        return []  # a distance from parity is not linear in the items: its components are not these
    first = rows[0]
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    here = records[records["compress"] == "none"]
    for entry in variance_ledger(here, outcome=first.outcome, condition=first.condition, benchmark=benchmark):
        if (entry["teach"], entry["adapt"]) in taught:
            if not entry["reason"]:
                entry["detectable"] = detectable_effect(
                    n_clusters=entry["n_clusters"], n_seeds=entry["n_seeds"], sd_cluster=math.sqrt(entry["cluster"]),
                    sd_seed=math.sqrt(entry["seed"]), sd_residual=math.sqrt(entry["residual"]),
                    confidence=first.confidence,
                ).value  # fmt: skip
            found.setdefault((entry["teach"], entry["adapt"], entry["base"]), entry)
    return [found[k] for k in sorted(found)]


def _rail_rows(rows: list[SurvivalRow], plain_rails: tuple[GuardRail, ...]) -> list[dict[str, Any]]:
    """Guard-rails of every cell once: untaught per compression, arms before and after compression."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for r in rows:
        if r.own_outcome:
            continue
        found.setdefault(("", "untaught", "", "none"), {
            "arm": "untaught", "compress": "none", "order": "", "rails": plain_rails, "bias": r.untaught_none,
        })  # fmt: skip
        found.setdefault(("", "untaught", "", r.compress), {
            "arm": "untaught", "compress": r.compress, "order": "", "rails": r.guard_rails_untaught, "bias": r.untaught_c,
        })  # fmt: skip
        found.setdefault(("a", r.teach, r.adapt, "none"), {
            "arm": r.arm, "compress": "none", "order": "", "rails": r.guard_rails_reference, "bias": r.taught_none,
        })  # fmt: skip
        found.setdefault(("a", r.teach, r.adapt, r.order, r.compress), {
            "arm": r.arm, "compress": r.compress, "order": r.order, "rails": r.guard_rails, "bias": r.taught_c,
        })  # fmt: skip
    return [found[k] for k in sorted(found, key=lambda k: (k[0], k[1], k[2], k[-1] != "none", k[3:]))]


def _points(rows: list[SurvivalRow], plain_rails: Sequence[GuardRail]) -> list[Point]:
    def accuracy(rails: Sequence[GuardRail]) -> Interval:
        return next((g.value for g in rails if g.name == "disambiguated accuracy"), Interval(math.nan))

    found: dict[tuple[str, str, str], Point] = {}
    for r in rows:
        cells = (
            ("untaught", "none", "", r.untaught_none, plain_rails),
            ("untaught", r.compress, "", r.untaught_c, r.guard_rails_untaught),
            (r.arm, "none", "", r.taught_none, r.guard_rails_reference),
            (r.arm, r.compress, r.order, r.taught_c, r.guard_rails),
        )
        for arm, compress, order, bias, rails in cells:
            shape = f"{compress}, merged first" if order == MERGED else compress
            found.setdefault((arm, compress, order), Point(arm, shape, bias, accuracy(rails), order))
    return list(found.values())


def _sizes(study: Mapping[str, Any], row: SurvivalRow) -> dict[str, float | None]:
    """Bits per parameter and bytes of a row's checkpoints, mean over seeds and bases; None if not recorded."""
    found: dict[str, float | None] = {}
    cells = [
        c for c in study.get("cells") or []
        if (c.get("teach"), c.get("adapt"), c.get("order"), c.get("compress")) == _key(row)
    ]  # fmt: skip
    for name in ("bits_per_parameter", "bytes"):
        values = [float(c[name]) for c in cells if isinstance(c.get(name), (int, float)) and math.isfinite(c[name])]
        found[name] = sum(values) / len(values) if values else None
    return found


def _numbers(point: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {k: finite(point.get(k)) for k in ("expected", "R", "low", "high")}
    found["expected"] = found["expected"] if found["expected"] is not None else math.nan
    known = all(found[k] is not None for k in ("low", "high"))
    found["inside"] = bool(known and found["low"] <= found["expected"] <= found["high"]) if known else None
    return found | {"n_seeds": point.get("n_seeds")}


def _transfer_arms(transfer: list[dict[str, Any]], rows: list[SurvivalRow]) -> list[dict[str, Any]]:
    """One line per taught arm: D0 on the untaught axis, and its share of D0 on the taught one where that is clear."""
    taught = {(r.teach, r.adapt): r.d0.value for r in rows if r.gate and not r.own_outcome}
    seen: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in transfer:
        arm = (row["teach"], row["adapt"])
        if not row.get("control") and arm not in seen:
            there, here = row["d0"]["value"], taught.get(arm)
            seen[arm] = row | {"same_arm": None if there is None or here is None else 100 * there / here}
    return list(seen.values())


def _forced_arms(forced: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per taught arm: the margin between the two people alone, before and after teaching."""
    seen: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in forced:
        arm = (row["teach"], row["adapt"])
        if not row.get("control") and arm not in seen:
            before, moved = row["untaught_none"]["value"], row["d0"]["value"]
            seen[arm] = dict(row) | {"removed": 100 * moved / before if before and moved is not None else None}
    return list(seen.values())


def _limits(
    study: Mapping[str, Any], rows: list[SurvivalRow], bases: list[Any], transfer: list[dict[str, Any]]
) -> list[str]:
    found = [str(limit) for limit in study.get("limits") or []]
    if rows:
        found.append(_about(rows, bases))
        seeds = min(r.n_seeds for r in rows)
        if seeds < 5:
            found.append(
                f"{seeds} training seed{'s' if seeds > 1 else ''} per arm: five are asked for where "
                "something is claimed; the intervals are wider for it."
            )
        if any(g.status == "undefined" and math.isnan(g.value.value) for r in rows for g in r.guard_rails):
            names = sorted({g.name for r in rows for g in r.guard_rails if math.isnan(g.value.value)})
            found.append(f"Not measured: {', '.join(names)}. What was not measured may have been damaged.")
    if not any(control_and_method(r.teach)[0] == "placebo" for r in rows):
        found.append("No placebo arm: whether fairness is more fragile than any other taught preference is not known.")
    if not transfer:
        found.append("No axis of bias outside the lesson was evaluated: nothing is said about transfer.")
    found.append(
        "One measure of bias, a log-probability margin on multiple-choice items; free text, other languages and other "
        "groups may behave otherwise. A small margin is not proof of fair decisions."
    )
    if not study.get("platform") or "cuda" not in json.dumps(study.get("platform"), default=str).lower():
        found.append("Not run on a GPU here: kernels there may round differently.")
    return [plain(x) for x in dict.fromkeys(found)]


def _examples(records: pd.DataFrame, rows: list[SurvivalRow], benchmark: str | None, n: int = 8) -> list[dict[str, Any]]:
    """Some items with what each policy did, chosen by rule (first by id per kind of change), not by hand."""
    taught = [r for r in rows if not r.control]
    if not taught or "chosen_role" not in records.columns:
        return []
    row = next((r for r in taught if r.verdict == LOST), taught[0])
    here = records[records["condition"] == row.condition]
    if benchmark is not None:
        here = here[here["benchmark"] == benchmark]
    base = min(here["base"].astype(str))
    here = here[here["base"].astype(str) == base]
    arm = here[(here["teach"] == row.teach) & (here["adapt"] == row.adapt)]
    if arm.empty:
        return []
    arm = arm[arm["seed"] == arm["seed"].min()]
    then = arm[(arm["compress"] == row.compress) & (arm["order"] == row.order)]
    now = arm[arm["compress"] == "none"]
    was = here[(here["teach"] == "untaught") & (here["compress"] == "none")]
    frames = [f.drop_duplicates("item_id").set_index("item_id") for f in (was, now, then)]
    shared = sorted(set(frames[0].index) & set(frames[1].index) & set(frames[2].index), key=str)
    by_change: dict[tuple[str, ...], list[Any]] = {}
    for item in shared:
        by_change.setdefault(tuple(str(f.loc[item, "chosen_role"]) for f in frames), []).append(item)
    chosen = [(change, item) for change, items in sorted(by_change.items()) for item in items[: max(1, n // len(by_change))]]
    found = []
    for change, item in chosen[:n]:
        source = frames[0].loc[item]
        options = source.get("options")
        options = options.tolist() if hasattr(options, "tolist") else options  # parquet gives lists as arrays
        found.append({
            "arm": f"{row.arm}, not compressed", "id": item,
            "axis": source.get("axis", ""), "groups": source.get("groups", ""),
            "prompt": source.get("prompt") if isinstance(source.get("prompt"), str) else None,
            "options": list(options) if isinstance(options, (list, tuple)) else None,
            "states": [
                {"name": name, "role": role, "margin": finite(float(f.loc[item, row.outcome]))}
                for name, role, f in zip(
                    ("untaught", f"{row.arm}, not compressed", f"{row.arm}, {row.compress}, {order_text(row.order)}"),
                    change, frames, strict=True,
                )
            ],
            "of": sum(len(items) for c, items in by_change.items() if c == change),
        })  # fmt: skip
    return found


def _changes(records: pd.DataFrame, rows: list[SurvivalRow], benchmark: str | None) -> list[dict[str, Any]]:
    """What single items did under compression; nothing where items are not answered by a role (minimal pairs)."""
    taught = [r for r in rows if not r.control]
    if not taught or taught[0].parity or "chosen_role" not in records.columns:
        return []
    try:
        return item_changes(records, condition=taught[0].condition, benchmark=benchmark)
    except InputError:
        return []  # the cells of one seed do not hold the same items: the table of survival says so where it matters


def _worst(records: pd.DataFrame, rows: list[SurvivalRow], benchmark: str | None) -> list[dict[str, Any]]:
    """The worst group of the untaught policy and of each taught arm, before and after compression; first seed and base."""
    taught = [r for r in rows if not r.control]
    if not taught or taught[0].parity or not {"groups", taught[0].outcome} <= set(records.columns):
        return []
    here = records[records["condition"] == taught[0].condition]
    if benchmark is not None:
        here = here[here["benchmark"] == benchmark]
    here = here[(here["base"].astype(str) == min(here["base"].astype(str))) & here[taught[0].outcome].notna()]
    if here["groups"].map(lambda value: value if isinstance(value, str) else "|".join(map(str, value))).nunique() < 2:
        return []  # one label on every item: there is no choice of a worst
    wanted: dict[tuple[str, str, str, str], str] = {("untaught", "none", "", ""): "untaught"}
    for r in taught:
        wanted |= {(r.teach, "none", r.adapt, ""): r.arm, (r.teach, r.compress, r.adapt, r.order): cell_name(r)}
    found: list[dict[str, Any]] = []
    for (teach, compress, adapt, order), name in wanted.items():
        cell = here[(here["teach"] == teach) & (here["compress"] == compress) & ((here["adapt"] == adapt) | (adapt == ""))]
        cell = cell[cell["order"] == order] if order else cell
        if len(cell):
            cell = cell[(cell["seed"] == cell["seed"].min()) & (cell["order"] == cell["order"].min())]
            worst: WorstGroup = worst_group(cell, outcome=taught[0].outcome, confidence=taught[0].confidence)
            n_known = sum(math.isfinite(g.mean.value) for g in worst.groups)
            found.append({"name": name, "worst": worst, "n_known": n_known, "n_groups": len(worst.groups)})
    return found


def _settings(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    def joined(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{k} {v}" for k, v in value.items())
        return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    seconds, peak = finite(study.get("wall_seconds")), finite(study.get("peak_gib"))
    seeds = sorted({str(c.get("seed")) for c in study.get("cells") or [] if c.get("seed") not in (None, -1)})
    pairs: list[tuple[str, Any]] = [
        ("versions", study.get("versions")), ("platform", study.get("platform")), ("training seeds", seeds),
        ("wall time", None if seconds is None else f"{seconds / 60:.1f} min ({seconds:.0f} s)"),
        ("peak memory", None if peak is None else f"{peak:.2f} GiB (largest process)"),
        ("items shared by training and evaluation", study.get("leaks")),
        ("steps made and reused", [study["steps_made"], study["steps_reused"]] if study["steps_made"] is not None else None),
    ]  # fmt: skip
    return [(name, plain(joined(value)) if value else "not recorded") for name, value in pairs]


# --- for machines ---------------------------------------------------------------------------------------------


def _flat(row: SurvivalRow) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.as_dict().items():
        if isinstance(value, dict):
            flat |= {name if k == "value" else f"{name}_{k}": v for k, v in value.items()}
        elif name.startswith("guard_rails"):
            for rail in value:
                short = f"{name}: {rail['name']}"
                flat |= {
                    short: rail["value"]["value"], f"{short}, change": rail["change"]["value"],
                    f"{short}, status": rail["status"],
                }  # fmt: skip
        else:
            flat[name] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _safe(value: Any) -> Any:
    """A cell that starts like a formula is text (CWE-1236); numbers stay numbers, None is empty."""
    if isinstance(value, str):
        value = plain(value)
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    return "" if value is None else value


def _clean(value: Any) -> Any:
    """JSON-able without NaN, lone surrogates or control characters."""
    if isinstance(value, Mapping):
        return {plain(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, SurvivalRow):
        return _clean(value.as_dict())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return plain(value) if isinstance(value, str) else value


def plain_page(text: str) -> str:
    """A whole page or table as :func:`~teachfair.evaluation.figures.plain` text, line ends and tabs kept."""
    return plain(text)
