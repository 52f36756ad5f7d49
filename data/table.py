"""The table of sources in docs/data.md, and that of their audits, made from the files themselves.

    python -m teachfair.data.table DIR                              # prints it
    python -m teachfair.data.table DIR --write docs/data.md         # puts it between the two markers of that page
    python -m teachfair.data.table DIR --audit --write docs/data.md # the pair audit of every source, likewise

DIR holds one folder per source, under the source's name or that of its public repository (see FOLDERS). A source whose
folder is absent is listed with its card only.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from teachfair.data import PAIR_SOURCES, SOURCES, TEXT_SOURCES
from teachfair.data.axes import AXES, OF_SOURCE
from teachfair.data.mixing import DO_NOT_ASSUME, USE_EVIDENCE, mix
from teachfair.data.pairs import counts_of
from teachfair.errors import DataError, TeachfairError
from teachfair.runs import write_text

if TYPE_CHECKING:
    from datasets import Dataset

FOLDERS = {
    "crows_pairs_revised": ("crows_pairs_revised", "crows_pairs_multilingual"),
    "stereoset_pairs": ("stereoset_pairs", "stereoset_pairs_phd"),
}
# One source may be read in several ways that differ in their pairs: (suffix of its name, options).
READINGS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "winobias": (("", {}), (" (questions)", {"form": "questions"})),
}
# What is audited apart beside the whole source: (suffix of its name, ((share, options), …)); several parts are mixed.
_WHOLE: tuple[tuple[float, dict[str, Any]], ...] = ((1, {}),)
_HALVES: tuple[dict[str, Any], ...] = ({"kinds": DO_NOT_ASSUME}, {"kinds": USE_EVIDENCE})
AUDITED: dict[str, tuple[tuple[str, tuple[tuple[float, dict[str, Any]], ...]], ...]] = {
    "bbq": (
        ("", _WHOLE),
        (" (no evidence)", ((1, _HALVES[0]),)),
        (" (evidence)", ((1, _HALVES[1]),)),
        (" (both, 1 : 2)", ((1, _HALVES[0]), (2, _HALVES[1]))),
    ),
    "crows_pairs_revised": (
        ("", _WHOLE), (" (English)", ((1, {"languages": ("en",)}),)), (" (French)", ((1, {"languages": ("fr",)}),)),
    ),
    "winobias": (
        ("", _WHOLE),
        (" (questions)", ((1, {"form": "questions"}),)),
        (" (questions, type 1)", ((1, {"form": "questions", "types": ("type1",)}),)),
        (" (questions, type 2)", ((1, {"form": "questions", "types": ("type2",)}),)),
    ),
}  # fmt: skip
BEGIN = "<!-- sources: begin (python -m teachfair.data.table DIR --write docs/data.md) -->"
END = "<!-- sources: end -->"
AUDIT_BEGIN = "<!-- audit: begin (python -m teachfair.data.table DIR --audit --write docs/data.md) -->"
AUDIT_END = "<!-- audit: end -->"
YOURS = ("sampled_pairs", "preference_file")
MOST_FOR_SHORTCUTS = 4000  # pairs that the rulers are cross-validated on, drawn by seed 0


def measured(name: str, source: ModuleType, root: Path) -> list[dict[str, Any]]:
    """What a source holds, one dict a reading: pairs, clusters, kinds, axes, counts, shortcuts. [] without a folder."""
    folder = _folder(name, root)
    if name == "holistic_bias" or (folder is None and name != "sandbox"):
        return []
    found = []
    for suffix, options in READINGS.get(name, (("", {}),)):
        pairs = _load(source, folder, options)
        found.append(
            {
                "name": name + suffix,
                "pairs": len(pairs),
                "clusters": len(set(pairs["cluster"])),
                "kinds": dict(sorted(Counter(pairs["kind"]).items())),
                "axes": dict(sorted(Counter(pairs["axis"]).items())),
                "languages": dict(sorted(Counter(pairs["lang"]).items())),
                "counts": counts_of(pairs),
                "shortcut": _shortcuts(pairs),
            }
        )
    return found


def _folder(name: str, root: Path) -> Path | None:
    """None where there is none; the sandbox has none, it is generated."""
    if name == "sandbox":
        return None
    return next((root / each for each in FOLDERS.get(name, (name,)) if (root / each).is_dir()), None)


def _load(source: ModuleType, folder: Path | None, options: dict[str, Any]) -> Dataset:
    """The source's "train" or, where its folder has no such file, its "test"."""
    try:
        return source.load(folder, "train", **options)
    except DataError as error:
        if "there is no train" not in error.what:
            raise
    return source.load(folder, "test", **options)


def _shortcuts(pairs: Dataset) -> str:
    """The best ruler that sees the surface only and, where the kind tells, "always the anti-stereotype"."""
    from teachfair.data.shortcuts import shortcut_baselines

    if len(pairs) > MOST_FOR_SHORTCUTS:
        pairs = pairs.shuffle(seed=0).select(range(MOST_FOR_SHORTCUTS))
    overall = [row for row in shortcut_baselines(pairs) if row["kind"] == "all"]
    anti = [row for row in overall if row["ruler"] == "always anti-stereotype"]
    best = max((row for row in overall if row not in anti), key=lambda row: row["accuracy"])
    return "<br>".join(f"{row['ruler']} {row['accuracy']:.2f}" for row in [best, *anti])


def table(root: Path) -> str:
    """The whole part between the markers, Markdown."""
    rows = []
    details = []
    for name, source in SOURCES.items():
        readings = measured(name, source, root)
        for reading in readings:
            counts = reading["counts"]
            rows.append(
                [
                    f"`{name}`" + reading["name"].removeprefix(name),
                    f"{counts.get('records', counts.get('read', 0)):,}",
                    f"{reading['pairs']:,}",
                    _listed(reading["kinds"]),
                    _listed(reading["axes"]),
                    f"{reading['clusters']:,}",
                    source.CARD["licence"],
                    reading["shortcut"],
                ]
            )
        if name in TEXT_SOURCES and name not in [row[0].strip("`") for row in rows]:
            rows.append([f"`{name}`", *_of_texts(source, root), source.CARD["licence"], "no pairs"])
        elif not readings and name not in TEXT_SOURCES:
            rows.append([f"`{name}`", "yours" if name in YOURS else "not in DIR", *["–"] * 4, source.CARD["licence"], "–"])
        details.append(_details(name, source, readings))
    head = ["source", "records", "pairs", "kinds", "axes", "clusters", "licence", "shortcuts"]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([*lines, "", *_axes(), *details])


def audit_table(root: Path) -> str:
    """The pair audit of every source that gives pairs, all of them, one row a reading, Markdown."""
    from teachfair.data.audit import RULERS, audit_pairs
    from teachfair.data.shortcuts import anti_stereotype_share

    head = ["source", "pairs", "clusters", "equal sides", "near-duplicates", *RULERS, "always anti-stereotype"]
    rows = []
    for name in PAIR_SOURCES:
        folder = _folder(name, root)
        if name in YOURS:
            continue
        if folder is None and name != "sandbox":
            rows.append([f"`{name}`", "not in DIR", *["–"] * (len(head) - 2)])
            continue
        for suffix, parts in AUDITED.get(name, (("", _WHOLE),)):
            try:
                loaded = {str(number): _load(SOURCES[name], folder, options) for number, (_, options) in enumerate(parts)}
            except DataError:
                if not suffix:
                    raise
                # the whole was read without an error: the folder holds nothing of this part
                rows.append([f"`{name}`{suffix}", "none in DIR", *["–"] * (len(head) - 2)])
                continue
            shares = {str(number): share for number, (share, _) in enumerate(parts)}
            audit = audit_pairs(mix(loaded, shares, seed=0) if len(parts) > 1 else loaded["0"])
            checks = {check["name"]: check for check in audit["checks"]}
            anti = anti_stereotype_share(audit["kinds"])
            cells = [_checked(checks[check]) for check in head[3:-1]]
            cells.append("–" if anti is None else f"{anti:.2f}")
            rows.append([f"`{name}`{suffix}", f"{audit['n']:,}", f"{audit['clusters']:,}", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def _checked(check: dict[str, Any]) -> str:
    """Its value, with the half width of its 95 % interval where it has one; bold where the audit found something."""
    if check["value"] is None:
        return "–"
    if check["low"] is None:  # a share of the rows
        told = f"{100 * check['value']:.2g} %"
    else:  # the interval is cut at 0 and 1: its longer side is the half width
        told = f"{check['value']:.2f} ± {max(check['high'] - check['value'], check['value'] - check['low']):.2f}"
    return f"**{told}**" if check["found"] else told


def _axes() -> list[str]:
    """The one vocabulary of axes, and each source's own words where they differ."""
    lines = ["| axis | called so by its authors |", "| --- | --- |"]
    for axis in AXES:
        words: dict[str, list[str]] = {}
        for source, mapping in OF_SOURCE.items():
            if source != "jigsaw_identity_templates":  # its words are 50 identity terms: see data/axes.py
                for word, ours in mapping.items():
                    if ours == axis and word != axis:
                        words.setdefault(word, []).append(source)
        told = "; ".join(f"{word} ({', '.join(sources)})" for word, sources in words.items())
        lines.append(f"| {axis} | {told or 'the same everywhere'} |")
    return [*lines, ""]


def _of_texts(source: ModuleType, root: Path) -> list[str]:
    """Records, pairs, kinds, axes, clusters of a source that has texts only."""
    folder = root / source.CARD["name"]
    if not folder.is_dir():
        return ["–"] * 5
    texts = source.texts(folder, n=None)
    axes = dict(sorted(Counter(text["axis"] for text in texts).items()))
    return [f"{len(texts):,} texts", "–", "neutral texts", _listed(axes), f"{len({text['cluster'] for text in texts}):,}"]


def _listed(numbers: dict[str, int]) -> str:
    return "<br>".join(f"{name or 'not stated'} {number:,}" for name, number in numbers.items())


def _details(name: str, source: ModuleType, readings: Sequence[dict[str, Any]]) -> str:
    card = source.CARD
    lines = [f"### `{name}`", "", f"{card['meaning'][0].upper()}{card['meaning'][1:]}.", ""]
    for title, key in (
        ("Citation", "paper"), ("Public id", "public_id"), ("Licence", "licence"), ("Language", "language"),
        ("Whose norm", "norm"), ("Reads", "formats"),
    ):  # fmt: skip
        value = "; ".join(card[key]) if isinstance(card[key], list) else card[key]
        if value:
            lines.append(f"- {title}: {_escaped(value)}")
    for reading in readings:
        lines += [f"- {told}" for told in _told(reading)]
    lines += ["- Traps:", *(f"  - {_escaped(problem)}" for problem in card["problems"]), ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")  # "<category>.jsonl" is no tag


def _told(reading: dict[str, Any]) -> list[str]:
    """What was left out and mended, as sentences."""
    counts = reading["counts"]
    dropped = {**counts.get("dropped", {}), "equal sides": counts.get("dropped_equal", 0)}
    found = [f"dropped {n:,}: {reason}" for reason, n in dropped.items() if n]
    found += [f"corrected {n:,}: {what}" for what, n in counts.get("corrected", {}).items()]
    if counts.get("repeated"):
        found.append(f"{counts['repeated']:,} pairs repeat an earlier one word for word (kept)")
    found += counts.get("notes", [])
    what = f"Of {counts.get('read', 0):,} pairs{reading['name'].partition(' ')[2] and ' (as questions)'}"
    return [f"{what}: {'; '.join(found)}"] if found else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m teachfair.data.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="one folder per source")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--audit", action="store_true", help="the pair audit of every source, in place of its counts")
    given = parser.parse_args(arguments)
    begin, end = (AUDIT_BEGIN, AUDIT_END) if given.audit else (BEGIN, END)
    log = logging.getLogger("teachfair")
    level = log.level
    log.setLevel(logging.ERROR)  # what the sources warn of is in the table
    try:
        if not given.folder.is_dir():
            raise DataError(
                "there is no such folder", where=str(given.folder), fix="give the folder of the sources' folders"
            )
        made = audit_table(given.folder) if given.audit else table(given.folder)
        if given.write is None:
            print(made)
            return 0
        page = given.write.read_text(encoding="utf-8") if given.write.is_file() else ""
        if begin not in page or end not in page:
            raise DataError("the page lacks the two markers", where=str(given.write), fix=f"add the lines {begin} and {end}")
        before, after = page.split(begin)[0], page.split(end)[1]
        write_text(given.write, f"{before}{begin}\n\n{made}\n{end}{after}")
    except TeachfairError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        log.setLevel(level)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
