"""The page of one evaluation: what was measured, every bias number beside its guard-rails, and what not to believe.

``evaluation.html`` makes no request and runs no script (content-security policy), escapes all data, and is the same byte
for byte for the same input. It prints what ``readings.py`` says and judges nothing itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import InputError
from teachfair.evaluation.against_front import BASELINE, DAMAGE, AgainstFront
from teachfair.evaluation.benchmarks import BENCHMARKS
from teachfair.evaluation.evaluate import SUMMARY, load_records
from teachfair.evaluation.figures import bias_reading, equal_utility_figure
from teachfair.evaluation.readings import Comparison, compare, headline_power
from teachfair.evaluation.report import plain_page
from teachfair.evaluation.statistics import worst_group
from teachfair.evaluation.statistics.equal_utility import rail_of_utility
from teachfair.evaluation.statistics.guards import RAILS
from teachfair.evaluation.statistics.planning import minimum_detectable, size_verdict
from teachfair.evaluation.wording import MARKS, MINUS, interval_text, number
from teachfair.svg import plain

if TYPE_CHECKING:
    import pandas as pd

PAGE, VERDICTS = "evaluation.html", "verdicts.json"
NOT_MEASURED = "not measured"
TARGETS = {
    "more biased": "higher = more biased", "less biased": "higher = less biased", "parity": "either side of it is bias",
}  # fmt: skip
_MEANINGS = {rail.name: rail.meaning for rail in RAILS}


def write_page(
    folder: str | Path, *, baseline: str | Path | None = None, modules: Mapping[str, Any] | None = None,
    front: FrontFolders | None = None, verdicts: Sequence[Comparison] | None = None,
) -> Path:  # fmt: skip
    """Write ``evaluation.html`` into the finished evaluation ``folder`` and return its path.

    Args: baseline: another finished evaluation on the same items: the page then has a verdict per benchmark and the
        guard-rails' changes. front: with a baseline, evaluations that it is compared with at the same utility.
        modules: benchmark objects that are not in ``BENCHMARKS`` (one of a YAML file), by name.
        verdicts: those of :func:`verdicts_against`, where they are at hand.
    Raises: RunFolderError if a folder is not a finished evaluation or its records were edited; InputError if its summary
        holds a bias number without guard-rails.
    """
    import jinja2

    folder = Path(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"num": number, "ci": interval_text, "text": plain, "short": short_number}
    if baseline is not None and verdicts is None:
        verdicts = verdicts_against(folder, baseline, modules=modules, front=front)
    context = _context(folder, None if baseline is None else Path(baseline), dict(modules or {}), verdicts or [])
    page = environment.get_template("page.html.j2").render(**context)
    return runs.write_text(folder / PAGE, plain_page(page))


def read_summary(folder: str | Path) -> dict[str, Any]:
    """``summary.json`` of an evaluation. Raises: InputError if it holds a bias number without guard-rails."""
    path = Path(folder) / SUMMARY
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary = {"benchmarks": {}, "bias": [], "guard_rails": [], "unscored": {}, "undefined": {}, "unguarded": {}} | summary
    for reading in summary["bias"]:
        if not reading.get("guard_rails"):
            raise InputError(
                "a bias number without guard-rails", where=f"{path}, benchmark {plain(reading.get('benchmark'))}",
                fix="evaluate again with benchmarks that serve as guard-rails (definitional, utility, open_answers)",
            )  # fmt: skip
    return summary


# --- words ----------------------------------------------------------------------------------------------------


def cards_of(summary: Mapping[str, Any], modules: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The cards of a summary's benchmarks, those with a bias reading first; ``modules``: those not in ``BENCHMARKS``."""
    return {
        name: dict(module.CARD)
        for name in dict.fromkeys([*(reading["benchmark"] for reading in summary["bias"]), *summary["benchmarks"]])
        if (module := modules.get(name, BENCHMARKS.get(name))) is not None
    }


def said(value: Any) -> str:
    """A value of a record in words; what is absent or empty is "not measured", never blank."""
    if value is None or value == "" or (isinstance(value, list | tuple | Mapping) and not value):
        return NOT_MEASURED
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(k)}: {said(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(said(v) for v in value)
    return plain(value)


def short_number(value: Any) -> str:
    """Four significant digits; a count as it is; an undefined number is "undefined", never 0."""
    if isinstance(value, list | tuple):
        return ", ".join(short_number(one) for one in value) or "none"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "undefined"
    if isinstance(value, float):
        return f"{value if abs(value) > 1e-12 else 0.0:.4g}".replace("-", MINUS)
    return plain(value)


def verdict_sentence(found: Comparison) -> str:
    """One line: verdict, change of bias with its interval, why, and the guard-rails."""
    confirmed = " (confirmed: every guard-rail is measured and ok)" if found.confirmed else ""
    if found.reading is None or not math.isfinite(found.change.value):
        return f"{found.benchmark}: {found.verdict}. {found.reason}."
    change = f"Change of bias {interval_text(found.change, 3)} {found.reading.unit}"
    rails = rails_text([rail.as_dict() for rail in found.guard_rails])
    equal = f" {equal_utility_sentence(found)}" if found.equal_utility is not None else ""
    return f"{found.benchmark}: {found.verdict}{confirmed}. {change}; {found.reason}. Guard-rails: {rails}.{equal}"


def equal_utility_sentence(found: Comparison) -> str:
    """What the model's bias is beside the front's where that is as useful as the model; or why this cannot be said."""
    against = found.equal_utility
    assert against is not None
    assert found.reading is not None
    gap, them = against.difference, "the damaged baseline" if against.kind == DAMAGE else "the other method"
    if not math.isfinite(gap.high):
        return f"At equal utility: {NOT_MEASURED}: {gap.reason}."
    at = against.equal.by_utility[0][0]
    where = f"At the same {against.utility} ({number(at, 3)})"
    if _more_useful_than_all(against):
        where = f"The model is more useful than every point of the front. Where {them} is most useful ({against.utility} "
        where += f"{number(at, 3)})"
    unit, theirs = found.reading.unit, against.equal.by_utility[0][2]
    numbers = f"{number(against.equal.by_utility[0][1], 3)} against {number(theirs, 3)} {unit}"
    numbers += " from the target" if found.reading.higher == "parity" else ""
    numbers += f", difference {interval_text(gap, 3)}"
    if gap.high < 0:
        said_ = f"the model is less biased than {them}"
    elif gap.low > 0:
        said_ = f"the model is more biased than {them}"
    else:
        said_ = f"the model cannot be told from {them}"
    return f"{where}, {said_}: {numbers}."


def _more_useful_than_all(against: AgainstFront) -> bool:
    """Then it is held against the most useful point, as ``at_equal_utility`` does."""
    sign = 1.0 if against.higher_is_better else -1.0
    return all(sign * (against.model.utility.value - point.utility.value) > 0 for point in against.points)


def reading_sentence(reading: Mapping[str, Any]) -> str:
    """One line for a bias number without a baseline: value, target and guard-rails."""
    target = f"target {number(reading['target'])}, {TARGETS.get(reading['higher'], reading['higher'])}"
    return (
        f"{reading['benchmark']}: {interval_text(reading['value'], 3)} {reading['unit']} ({target}). "
        f"Guard-rails: {rails_text(reading['guard_rails'])}."
    )


def rails_text(rails: Sequence[Mapping[str, Any]]) -> str:
    """Guard-rails in a line: by status where they have a change, else each one's value."""
    changed = [rail for rail in rails if rail["change"]["value"] is not None]
    if changed:
        parts = []
        for status in ("violated", "unclear", "undefined", "ok"):
            names = [rail["name"] for rail in rails if rail["status"] == status]
            parts += [f"{status}: {', '.join(names)}"] if names else []
        return "; ".join(parts)
    values = ", ".join(f"{rail['name']} {short_number(rail['value']['value'])}" for rail in rails)
    return f"{values} (no change: no baseline)"


def rail_status(rail: Mapping[str, Any]) -> str:
    """Status with its mark; "no baseline" where there is nothing to compare with."""
    if rail["value"]["value"] is None:
        return NOT_MEASURED
    if rail["change"]["value"] is None:
        return "no baseline" if "baseline" in rail["change"]["reason"] else f"not comparable: {rail['change']['reason']}"
    return f"{MARKS[rail['status']]} {rail['status']}"


# --- what the page shows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontFolders:
    """Finished evaluations that are the points of one front, without the baseline, which is its first point.

    ``is_``: "damage" (the baseline damaged by growing amounts) or "method" (another method at growing strengths).
    ``utility``: a guard-rail's name; None: the first of ``against_front.UTILITIES`` that was measured.
    """

    folders: tuple[Path, ...]
    is_: str = DAMAGE
    utility: str | None = None

    @property
    def names(self) -> list[str]:
        """The folders' names; their paths where two are alike, or one is called as the front's first point is."""
        short = [BASELINE, *(folder.resolve().name for folder in self.folders)]
        return [
            plain(name if short.count(name) == 1 else str(folder), 60)
            for name, folder in zip(short[1:], self.folders, strict=True)
        ]


def check_front(front: FrontFolders, baseline: str | Path) -> None:
    """Whether every point was measured on what the baseline was: before hours of scoring, not after.

    Raises: RunFolderError if a folder is not a finished evaluation, or was edited; InputError if one lacks a benchmark of
        the baseline, asked other items or read other data files, or is the baseline's own checkpoint; ConfigError on an
        unknown utility.
    """
    if front.utility is not None:
        rail_of_utility(front.utility)
    asked, reference = load_records(baseline)[_ITEM_KEYS], runs.read_record(baseline) or {}
    items = set(asked.astype(str).itertuples(index=False, name=None))
    hashes: dict[str, str] = {}
    for folder in front.folders:
        record, rows = runs.read_record(folder) or {}, load_records(folder)[_ITEM_KEYS]
        where = f"--front, {folder}"
        lacking = sorted(set(asked["benchmark"]) - set(rows["benchmark"]))
        if lacking:
            raise InputError(
                f"the point was not measured on {', '.join(map(plain, lacking))}", where=where,
                fix=f"evaluate it with the benchmarks of the baseline {baseline}",
            )  # fmt: skip
        mine = rows[rows["benchmark"].isin(set(asked["benchmark"]))]
        odd = sorted(set(mine.astype(str).itertuples(index=False, name=None)) ^ items)
        if odd:
            raise InputError(
                f"the point and the baseline were asked different items (such as {plain(odd[0][1])} of {plain(odd[0][0])})",
                where=where, fix=f"evaluate it with --benchmarks, --limit, --lang and --formats of the baseline {baseline}",
            )  # fmt: skip
        _require_same_sources(record, reference, where)
        digest = record.get("policy_hash")
        twin = baseline if digest == reference.get("policy_hash") else hashes.get(str(digest))
        if digest is not None and twin is not None:
            raise InputError(
                f"the point is the same checkpoint as {twin}", where=where,
                fix="leave it out: the baseline is the front's first point, and each other one is given once",
            )  # fmt: skip
        hashes[str(digest)] = str(folder)


_ITEM_KEYS = ["benchmark", "item_id", "cluster"]


def _require_same_sources(record: Mapping[str, Any], reference: Mapping[str, Any], where: str) -> None:
    """Items of one name may have other texts: data files by their hash, benchmarks by their version."""
    here, there = (
        {str(path).rsplit("/", 1)[-1]: digest for path, digest in (one.get("data_hashes") or {}).items()}
        for one in (record, reference)
    )
    changed = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    mine, theirs = (one.get("benchmarks") or {} for one in (record, reference))
    both = sorted(mine.keys() & theirs.keys())
    changed += [f"benchmark {name}" for name in both if mine[name].get("version") != theirs[name].get("version")]
    if changed:
        raise InputError(
            f"the point was measured on another version of {plain(changed[0])} than the baseline", where=where,
            fix="evaluate both with the same files and the same version of teachfair",
        )  # fmt: skip


def verdicts_against(
    folder: str | Path, baseline: str | Path, *, modules: Mapping[str, Any] | None = None,
    front: FrontFolders | None = None,
) -> list[Comparison]:  # fmt: skip
    """A verdict for each bias benchmark of a finished evaluation against another one on the same items.

    Raises: RunFolderError if one of the two is not a finished evaluation, or was edited; of the front: :func:`check_front`.
    """
    cards = cards_of(read_summary(folder), modules or {})
    options: dict[str, Any] = {}
    if front is not None:
        check_front(front, baseline)
        points = [(name, load_records(path)) for name, path in zip(front.names, front.folders, strict=True)]
        options = {"front": points, "front_is": front.is_, "utility": front.utility}
    return compare(load_records(folder), load_records(baseline), cards, modules=modules, **options)


def write_verdicts(
    folder: str | Path, verdicts: Sequence[Comparison], baseline: str | Path, front: FrontFolders | None = None
) -> Path:
    """``verdicts.json`` in the evaluation ``folder``: what :func:`verdicts_against` found, and of which evaluations.

    A file of its own, because ``summary.json`` is sealed with the evaluation and holds what is true of one model alone.
    """

    def of(path: Path) -> dict[str, Any]:
        record = runs.read_record(path) or {}
        return {"folder": str(path)} | {key: record.get(key) for key in ("policy", "policy_hash", "records_hash")}

    return runs.write_json(
        Path(folder) / VERDICTS,
        {
            "model": of(Path(folder)), "baseline": of(Path(baseline)),
            "front": [] if front is None else [of(path) for path in front.folders],
            "verdicts": [
                found.as_dict() | {"sentence": plain(verdict_sentence(found))} for found in verdicts
            ],
        },
    )  # fmt: skip


def _context(
    folder: Path, baseline: Path | None, modules: Mapping[str, Any], verdicts: Sequence[Comparison]
) -> dict[str, Any]:
    records, summary = load_records(folder), read_summary(folder)
    record = runs.read_record(folder) or {}
    reference = None if baseline is None else load_records(baseline)
    reference_record = {} if baseline is None else runs.read_record(baseline) or {}
    cards = cards_of(summary, modules)
    by_name = {found.benchmark: found for found in verdicts}
    power = [] if reference is None else headline_power(records, reference, cards, modules=modules)
    readings = [
        _reading(place, reading, by_name.get(reading["benchmark"]), records, cards, summary, power)
        for place, reading in enumerate(summary["bias"])
    ]
    name, against = _name(record), _name(reference_record) if baseline is not None else None
    if baseline is not None and name == against:  # two checkpoints of one name: the evaluations' folders tell them apart
        name, against = f"{name} ({plain(folder.resolve().name, 60)})", f"{against} ({plain(baseline.resolve().name, 60)})"
    return {
        "title": f"{name}{f' against {against}' if against else ''}: bias and its guard-rails",
        "name": name, "against": against,
        "lead": _lead(verdicts, readings, against),
        "lines": [verdict_sentence(v) for v in verdicts] or [reading_sentence(r["reading"]) for r in readings],
        "identity": _identity(record, reference_record if baseline is not None else None),
        "readings": readings,
        "unguarded": summary["unguarded"],
        "guards": _rails(summary["guard_rails"]),
        "problems": _problems(records, record, summary),
        "numbers": _numbers(summary),
        "cards": _cards(record, summary, cards),
        "again": _again(record),
        "undefined": _by_reason(summary["undefined"]),
        "dash": NOT_MEASURED,
        "has_front": any(found.equal_utility is not None for found in verdicts),
    }  # fmt: skip


def _name(record: Mapping[str, Any]) -> str:
    return plain(str(record.get("policy") or "a policy").rstrip("/").rsplit("/", 1)[-1], 60)


def _lead(verdicts: Sequence[Comparison], readings: Sequence[Any], against: str | None) -> str:
    if not readings and not verdicts:
        return "No bias number is shown: no benchmark that measures bias was scored together with guard-rails."
    if against is None:
        n = f"{len(readings)} bias number{'s' if len(readings) != 1 else ''}"
        return f"{n}, each with its guard-rails. No baseline was given, so there is no verdict."
    counts: dict[str, int] = {}
    for found in verdicts:
        counts[found.verdict] = counts.get(found.verdict, 0) + 1
    confirmed = sum(found.confirmed for found in verdicts)
    said_ = ", ".join(f"{verdict} on {n}" for verdict, n in counts.items())
    n = f"{len(verdicts)} bias benchmark{'s' if len(verdicts) != 1 else ''}"
    return f"Against {against}: {said_} of {n}; “fairer” is confirmed on {confirmed}."


def _reading(
    place: int, reading: Mapping[str, Any], found: Comparison | None, records: pd.DataFrame, cards: Mapping[str, Any],
    summary: Mapping[str, Any], power: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Everything about one bias number; with a baseline its numbers are those on the items that both could score."""
    from markupsafe import Markup

    name = str(reading["benchmark"])
    before = None
    if found is not None and found.reading is not None and found.baseline is not None:
        reading, before = found.reading.as_dict(), found.baseline.as_dict()
    numbers = summary["benchmarks"].get(name, {})
    figure = bias_reading(reading, before, name=f"bias-{place}") if reading["value"]["value"] is not None else None
    card = cards.get(name, {})
    return {
        "name": name, "reading": reading, "before": before, "found": found, "meaning": card.get("meaning", NOT_MEASURED),
        "figure": None if figure is None else Markup(figure),  # text in it is escaped by matplotlib's SVG writer
        "target_means": TARGETS.get(reading["higher"], reading["higher"]),
        "front": None if found is None or found.equal_utility is None else _front(place, found, found.equal_utility),
        "rails": _rails(reading["guard_rails"]),
        "ways": _ways(numbers.get("ways"), str(reading["metric"])),
        "groups": {by: _groups(records, name, card, by) for by in ("axis", "groups")},
        "size": [row for row in power if row["benchmark"] == name] or [_size(records, reading)],
        "paired": any(row["benchmark"] == name for row in power),
    }  # fmt: skip


def _front(place: int, found: Comparison, against: AgainstFront) -> dict[str, Any]:
    """The comparison at equal utility: its sentence, its picture where there is a front, and its points as a table."""
    from markupsafe import Markup

    assert found.reading is not None
    pictures = []
    if against.points and math.isfinite(against.model.utility.value):
        pictures = [
            Markup(equal_utility_figure(against.as_dict(), found.reading.as_dict(), name=f"{kind}-{place}", narrow=narrow))
            for kind, narrow in (("front", False), ("front-narrow", True))
        ]
    rows = [{"mark": "◆", **against.model.as_dict(), "used": True}] if against.points else []
    rows += [{"mark": n, **point.as_dict(), "used": n in against.line} for n, point in enumerate(against.points)]
    return {
        "sentence": equal_utility_sentence(found), "pictures": pictures, "rows": rows, "is_damage": against.kind == DAMAGE,
        "utility": against.utility, "unit": against.unit, "higher": against.higher_is_better,
        "left_out": list(against.left_out),
    }  # fmt: skip


def _rails(rails: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**rail, "meaning": _MEANINGS.get(rail["name"], ""), "shown": rail_status(rail)} for rail in rails]


def _ways(ways: Mapping[str, Any] | None, metric: str) -> dict[str, Any] | None:
    """The spread over prompt formats and option orders of every number that has one, the headline first."""
    if not ways:
        return None
    chosen = {key: found for key, found in ways.items() if isinstance(found, Mapping) and "by_format" in found}
    formats = sorted({name for found in chosen.values() for name in found["by_format"]})
    first = {key: found for key, found in chosen.items() if key == metric}
    return {"formats": formats, "rows": first | chosen}


def _groups(records: pd.DataFrame, name: str, card: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Means of the margin by axis or group, the worst first (by size where parity is the target); or why there are none."""
    rows = records[records["benchmark"] == name]
    condition = card.get("outcome_condition") or ("ambiguous" if (rows["condition"] == "ambiguous").any() else "parity")
    rows = rows[(rows["condition"] == condition) & (rows["problem"].fillna("") == "")]
    if "margin_nats" not in rows or not rows["margin_nats"].notna().any():
        return {"why": f"{NOT_MEASURED}: its items have no margin of their own"}
    rows = rows[rows["margin_nats"].notna()].assign(group=lambda f: f[by].map(_joined))
    rows = rows[rows["group"] != ""]
    if rows["group"].nunique() < 2:
        return {"why": f"{NOT_MEASURED}: one label on every item, so there is no worst one"}
    found = worst_group(rows, outcome="margin_nats", by="group")
    return {
        "why": "", "worst": found.name, "value": found.value.as_dict(), "rows": [g.as_dict() for g in found.groups],
        "n_known": sum(math.isfinite(g.mean.low) for g in found.groups),
    }  # fmt: skip


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else "|".join(map(str, value)) if isinstance(value, list | tuple) else ""


def _size(records: pd.DataFrame, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Without a baseline: how far from its target this number has to be to be seen there, at this size."""
    rows = records[(records["benchmark"] == reading["benchmark"]) & (records["problem"].fillna("") == "")]
    se, value, n = reading["value"]["se"], reading["value"]["value"], int(rows["cluster"].nunique())
    mde = math.nan if se is None else minimum_detectable(float(se), n - 1)
    bias = math.nan if value is None else value - reading["target"]
    return {"size": "all", "n_clusters": n, "mde": mde, "bias": bias, "verdict": size_verdict(mde, bias)}


def _identity(record: Mapping[str, Any], reference: Mapping[str, Any] | None) -> list[tuple[str, list[str]]]:
    def of(one: Mapping[str, Any]) -> dict[str, Any]:
        chat = one.get("prompt_format") or {}
        return {
            "policy": one.get("policy"), "kind": one.get("policy_kind"), "base": one.get("base") or "none: it stands alone",
            "quantisation": one.get("quantization") or "none", "dtype": one.get("dtype"), "device": one.get("device"),
            "scoring path": one.get("scoring_path"), "content hash": one.get("policy_hash"),
            "chat template": chat.get("chat_template"), "study cell": one.get("cell") or "none: not part of a study",
            "items": f"at most {one['limit']} questions of each benchmark, evenly spaced" if one.get("limit") else "all",
            "measured": one.get("finished"), "notes": one.get("notes") or "none",
        }  # fmt: skip

    columns = [of(record)] + ([] if reference is None else [of(reference)])
    return [(key, [said(column[key]) for column in columns]) for key in columns[0]]


def _problems(records: pd.DataFrame, record: Mapping[str, Any], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name in summary["benchmarks"]:
        rows = records[records["benchmark"] == name]
        facts = (record.get("benchmarks") or {}).get(name, {})
        unscored = summary["unscored"].get(name, {})
        dropped: Any = NOT_MEASURED
        if "dropped_characters" in rows and rows["dropped_characters"].notna().any():
            lost = rows["dropped_characters"].fillna(0)
            dropped = f"{int(lost.sum())} in {int((lost > 0).sum())} items"
        found.append({
            "name": name, "n": len(rows), "unscored": sum(unscored.values()),
            "why": ", ".join(f"{n} × {word}" for word, n in unscored.items()) or "none", "dropped": dropped,
            "mismatch": facts.get("n_prefix_mismatch", NOT_MEASURED),
        })  # fmt: skip
    return found


def _numbers(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each benchmark's own top-level numbers with its guard-rails; of an unguarded bias benchmark none."""
    rails = {reading["benchmark"]: rails_text(reading["guard_rails"]) for reading in summary["bias"]}
    found = []
    for name, numbers in summary["benchmarks"].items():
        if name in summary["unguarded"]:
            continue
        why = {key: summary["undefined"].get(f"{name}.{key}", "no such items") for key in numbers}
        pairs = [
            (key, short_number(value) if value is not None else f"undefined: {why[key]}")
            for key, value in numbers.items()
            if not isinstance(value, Mapping) and not (isinstance(value, list) and len(value) > 3)
        ]
        found.append({"name": name, "pairs": pairs, "rails": rails.get(name)})
    return found


def _cards(record: Mapping[str, Any], summary: Mapping[str, Any], cards: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name in summary["benchmarks"]:
        card, facts = cards.get(name, {}), (record.get("benchmarks") or {}).get(name, {})
        problems = card.get("problems") or ["not recorded: the benchmark is not one of this version's"]
        found.append({
            "name": name, "version": said(facts.get("version", card.get("version"))), "norm": said(facts.get("norm")),
            "licence": said(card.get("licence")), "paper": said(card.get("paper")), "language": said(card.get("language")),
            "direction": said(card.get("direction")), "problems": [problems] if isinstance(problems, str) else problems,
        })  # fmt: skip
    return found


def _again(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    hashes = record.get("data_hashes") or {}
    asked = record.get("benchmarks") or {}
    options = {name: facts["options"] for name, facts in asked.items() if facts.get("options")}
    return [
        ("command", " ".join(map(plain, record.get("command") or [])) or NOT_MEASURED),
        ("benchmarks", said(list(asked))),
        ("options", said(options) if options else "the defaults"),
        ("limit", said(record.get("limit")) if record.get("limit") else "none: all items"),
        ("data folder", said(record.get("data_dir")) if record.get("data_dir") else "none was read"),
        *((f"sha256 of {plain(str(path).rsplit('/', 1)[-1])}", said(digest)) for path, digest in hashes.items()),
        ("versions", said(record.get("versions"))),
        ("environment", said({k: v for k, v in (record.get("environment") or {}).items() if v is not None})),
        ("result hash", said(record.get("result_hash"))),
        ("records hash", said(record.get("records_hash"))),
    ]


def _by_reason(undefined: Mapping[str, str]) -> list[tuple[str, int, list[str]]]:
    paths: dict[str, list[str]] = {}
    for path, reason in undefined.items():
        paths.setdefault(reason, []).append(path)
    return [(reason, len(found), found[:5]) for reason, found in paths.items()]
