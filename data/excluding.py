"""Pairs that a user will not teach: a file with one id a line, and which list it was travels with the pairs.

Whether a pair is fair can be contested. The list stays outside of the data, and its hash and length go into the pairs'
counts (``teachfair.data.pairs.counts_of``) and from there into the run record, so that a result says what it left out.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from teachfair.data.pairs import Counts
from teachfair.data.reading import Problem, decoded, read_bytes, refuse, short, text_problems
from teachfair.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=dict[str, Any])


class Exclusion(NamedTuple):
    """``sha256``: of the ids, sorted, one a line: neither their order nor comments change it."""

    file: str
    ids: frozenset[str]
    sha256: str
    path: str


def read_exclusion(path: str | Path, *, limit_errors: int = 20) -> Exclusion:
    """The ids of a file: one a line, UTF-8; empty lines and lines that begin with ``#`` are skipped.

    Raises: DataError that names each line which cannot be an id, or is there twice.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError("a folder, not a list of ids", where=f"--exclude_ids {path}", fix="name the file")
    text, encoding = decoded(path, read_bytes(path, what="id"))
    if encoding != "utf-8":
        raise DataError("the list of ids is not UTF-8", where=str(path), fix="save the file as UTF-8")
    first: dict[str, int] = {}
    problems: list[Problem] = []
    lines = 0
    for number, line in enumerate(text.split("\n"), start=1):
        identity = line.strip()
        if not identity or identity.startswith("#"):
            continue
        lines += 1
        found = [what for _, what in text_problems("id", identity)]
        if identity in first:
            found.append(f"{short(identity)} was already named on line {first[identity]}")
        problems.extend(Problem(path.name, number, "id", what) for what in found)
        first.setdefault(identity, number)
    refuse(problems, bad=len({problem.line for problem in problems}), read=lines, rows="ids", limit=limit_errors)
    if not first:
        raise DataError("the list names no id", where=str(path), fix="give one id a line, or leave the list out")
    digest = hashlib.sha256("\n".join(sorted(first)).encode()).hexdigest()
    return Exclusion(path.name, frozenset(first), digest, str(path))


def without_excluded(rows: list[Row], exclude_ids: str | Path | None) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows whose ``id`` is not on the list, and what the list was: file name, sha256, number of ids, how many were met.

    Raises: as :func:`read_exclusion`; DataError if no row is left. A list that met no row is warned of: its ids may be
    of another source, or of another version of this one.
    """
    if exclude_ids is None:
        return rows, []
    exclusion = read_exclusion(exclude_ids)
    kept = [row for row in rows if row["id"] not in exclusion.ids]
    return kept, [excluded_by(exclusion, met=len(rows) - len(kept), among=len(rows), left=len(kept))]


def excluded_by(exclusion: Exclusion, *, met: int, among: int, left: int) -> dict[str, Any]:
    """What a record says of a list that met ``met`` of ``among`` rows and left ``left``; raises and warns as
    :func:`without_excluded`."""
    if among and not left:
        raise DataError("every pair is on the list of excluded ids", where=exclusion.path, fix="give a shorter list")
    if not met:
        logger.warning("%s: none of its %d ids is among these %d rows", exclusion.path, len(exclusion.ids), among)
    return {"file": exclusion.file, "sha256": exclusion.sha256, "ids": len(exclusion.ids), "met": met}


def exclude(rows: list[Row], counts: Counts, exclude_ids: str | Path | None) -> list[Row]:
    """:func:`without_excluded`, written into ``counts``."""
    kept, exclusions = without_excluded(rows, exclude_ids)
    counts.excluded += len(rows) - len(kept)
    counts.kept -= len(rows) - len(kept)
    counts.exclusions.extend(exclusions)
    return kept
