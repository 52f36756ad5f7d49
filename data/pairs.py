"""Preference pairs: the one row format of this project, and readers that name every malformed row.

A pair is *conversational* (lists of messages), never plain text: TRL scores plain text with BOS and EOS while
it trains a reward model and without them while it uses one, so the same answer would get two rewards. Plain
text is converted on the way in.

``datasets`` loads many malformed preference files without a word (a missing column, an integer or null where
text was wanted, NaN, empty strings, equal sides). The readers here list each such row as ``file:line: field:
what was wrong``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.reading import (
    Problem,
    Unreadable,
    csv_rows,
    json_rows,
    jsonl_rows,
    kind_of,
    parquet_rows,
    read_bytes,
    refuse,
    short,
    text_problems,
)
from teachfair.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

PAIR_COLUMNS = (
    "prompt",
    "chosen",
    "rejected",
    "kind",
    "axis",
    "groups",
    "cluster",
    "source",
    "lang",
    "id",
)
# A column that a set of pairs has only where some pair of it has one: how much worse the rejected side is, as the least
# difference of rewards that a reward model is to learn (reward units, >= 0; absent or null = 0).
MARGIN = "margin"

# What the two sides are: "<chosen>-vs-<rejected>". The name decides what a reward model's accuracy on it
# means, so numbers are reported per kind, never over a mixture alone.
KINDS = (
    "neutral-vs-stereotype",
    "anti-vs-stereotype",
    "evidence-vs-stereotype",
    "evidence-vs-anti",
    "evidence-vs-cant-tell",
    "cant-tell-vs-stereotype",
    "cant-tell-vs-anti",
    "counterspeech-vs-slur",
    "neutral-vs-toxic",
    "neutral-swap",
    "placebo",
    "unspecified",
)

_SIDES = ("prompt", "chosen", "rejected")
_ROLES = ("system", "user", "assistant", "tool")
FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")


@dataclass
class Counts:
    """What became of the rows of a file, whenever no error was raised::

        read == kept + dropped_equal + sum(dropped.values()) + not_asked + excluded

    ``records``: rows of the authors' file; ``read``: pairs that they make (a BBQ record makes two). ``dropped``: reason ->
    number. ``not_asked``: of another split, axis, language or kind than was asked for. ``excluded``: taken out by a list of
    ids, and ``exclusions`` says by which. ``corrected``: what was mended -> number. ``notes``: what else to know.
    """

    read: int = 0
    kept: int = 0
    dropped_equal: int = 0
    repeated: int = 0
    extracted_prompts: int = 0
    ignored_columns: list[str] = field(default_factory=list)
    records: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    not_asked: int = 0
    excluded: int = 0
    exclusions: list[dict[str, Any]] = field(default_factory=list)
    corrected: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: _summed(value, getattr(other, name)) for name, value in vars(self).items()})


def _summed(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {key: one.get(key, 0) + other.get(key, 0) for key in [*one, *(key for key in other if key not in one)]}
    if isinstance(one, list):
        return [*one, *(item for item in other if item not in one)]
    return one + other


def features() -> Features:
    """The ``datasets.Features`` of a preference pair."""
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    columns: dict[str, Any] = {name: Value("string") for name in PAIR_COLUMNS}
    columns.update(dict.fromkeys(_SIDES, messages), groups=List(Value("string")))
    return Features(columns)


def as_conversation(prompt: Any, chosen: Any, rejected: Any) -> dict[str, list[dict[str, str]]]:
    """A pair in any of TRL's preference formats as ``{"prompt", "chosen", "rejected"}``, each a list of
    messages.

    Args:
        prompt: text, a list of messages, or None (implicit: the two sides begin alike, see below).
        chosen, rejected: both text, or both lists of messages.

    An implicit prompt is the longest common beginning of the two sides, as in ``trl.extract_prompt``: of
    messages when they are messages, of characters (cut back before a space) when they are text. A ``prompt``
    given as text beside full conversations that begin with a user message is implicit too (TRL's rule).

    Raises: DataError if the sides mix text and messages, or nothing is left of a prompt or an answer.
    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError("one side is text and the other a conversation", where="chosen, rejected")
    if isinstance(chosen, str):
        if prompt is None:
            prompt, chosen, rejected = _common_beginning(chosen, rejected)
        chosen, rejected = [_message("assistant", chosen)], [_message("assistant", rejected)]
    elif prompt is None or (isinstance(prompt, str) and _opens_with_a_question(chosen)):
        prompt, chosen, rejected = _common_beginning(chosen, rejected)
    if not prompt:
        raise DataError(
            "there is no prompt, and the two sides do not begin alike, so none can be extracted",
            where="prompt",
            fix="add a prompt column",
        )
    if isinstance(prompt, str):
        prompt = [_message("user", prompt)]
    return {"prompt": list(prompt), "chosen": list(chosen), "rejected": list(rejected)}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _opens_with_a_question(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], dict) and messages[0].get("role") in ("system", "user")


def _common_beginning(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    # Written out, not imported: TRL takes many seconds to import, and its function cuts at -1 (nearly
    # everything becomes the prompt) where the sides differ at once and `chosen` happens to end in a space.
    cut = 0
    shortest = min(len(chosen), len(rejected))
    while cut < shortest and chosen[cut] == rejected[cut]:
        cut += 1
    if shortest and cut == shortest:
        cut -= 1  # one side continues the other: an answer must keep at least its last element
    elif isinstance(chosen, str) and cut and chosen[cut - 1] == " ":
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def validate_rows(
    rows: Iterable[Any],
    where: str,
    *,
    lines: Sequence[int] | None = None,
    drop_equal: bool = False,
    source: str = "",
    counts: Counts | None = None,
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Rows in any of TRL's preference formats -> complete conversational pairs, and what was wrong with the
    others.

    Args:
        rows: mappings with ``chosen``, ``rejected`` and usually ``prompt``; any of :data:`PAIR_COLUMNS`
            besides, and ``margin`` (:data:`MARGIN`).
        where: the name that problems are reported under (a file name).
        lines: the line of each row in that file; counted from 1 when absent.
        drop_equal: leave out pairs whose sides are equal up to whitespace (counted in ``counts``); otherwise
            a problem.
        source: for rows that name no ``source`` of their own.
        counts: filled in when given.

    Returns: (good rows, problems). Every row is in exactly one of: good, dropped as equal, or named by >= 1
    problem. Missing ids are made from the content (a repeated pair gets ``-2``, ``-3``; it is kept and
    counted); an id that a file itself gives twice is a problem. ``cluster`` defaults to a hash of the prompt,
    ``lang`` to ``und``.
    """
    counts = counts if counts is not None else Counts()
    good: list[dict[str, Any]] = []
    problems: list[Problem] = []
    given_ids: dict[str, int] = {}
    made_ids: dict[str, int] = {}
    ignored: set[str] = set()
    for number, raw in enumerate(rows):
        line = lines[number] if lines is not None else number + 1
        counts.read += 1
        counts.records += 1
        found = list(_row_problems(raw))
        pair = None
        if not found:
            try:
                pair = as_conversation(raw.get("prompt"), raw["chosen"], raw["rejected"])
            except DataError as error:
                found.append((error.where, error.what))
        if pair is not None:
            found.extend(_answer_problems(pair))
        if not found and pair is not None:
            if _squeezed(pair["chosen"]) == _squeezed(pair["rejected"]):
                if drop_equal:
                    counts.dropped_equal += 1
                    continue
                found.append(("chosen", "equals rejected (up to whitespace), so the pair prefers nothing"))
            given = raw.get("id")
            if given is not None and str(given) in given_ids:
                found.append(("id", f"{short(str(given))} was already used on line {given_ids[str(given)]}"))
            elif given is not None:
                given_ids[str(given)] = line
        if found or pair is None:
            problems.extend(Problem(where, line, name, what) for name, what in found)
            continue
        counts.extracted_prompts += raw.get("prompt") is None
        ignored.update(str(key) for key in raw if key not in (*PAIR_COLUMNS, MARGIN))
        good.append(_complete(raw, pair, source or where, made_ids, counts))
    taken = set(given_ids)
    for row in good:
        # a made id that meets a given one (a file that was written by us and edited since)
        if row.pop("_id_is_made"):
            while row["id"] in taken:
                row["id"] += "x"
            taken.add(row["id"])
    counts.kept += len(good)
    counts.ignored_columns = sorted(ignored)
    return good, problems


def _row_problems(raw: Any) -> Iterator[tuple[str, str]]:
    if isinstance(raw, Unreadable):
        yield raw.field, raw.what
        return
    if not isinstance(raw, dict):
        yield "row", f"an object with prompt, chosen and rejected was wanted, this is {kind_of(raw)}"
        return
    for side in _SIDES:
        if side not in raw:
            if side != "prompt":
                present = ", ".join(short(str(key)) for key in list(raw)[:8]) or "nothing"
                yield side, f"missing (this row has: {present})"
            continue
        value = raw[side]
        if isinstance(value, list | tuple):
            yield from message_problems(side, value)
        else:
            yield from text_problems(side, value)
    for name in ("kind", "axis", "cluster", "source", "lang"):
        if raw.get(name) is not None:
            yield from text_problems(name, raw[name], may_be_empty=True)
    if isinstance(raw.get("kind"), str) and raw["kind"] and raw["kind"] not in KINDS:
        yield "kind", f"{short(raw['kind'])} is unknown; known ones: {', '.join(KINDS)}"
    if raw.get("id") is not None:
        if isinstance(raw["id"], bool) or not isinstance(raw["id"], str | int):
            yield "id", f"text was wanted, this is {kind_of(raw['id'])}"
        elif isinstance(raw["id"], str):
            yield from text_problems("id", raw["id"])
    groups = raw.get("groups")
    if groups is not None:
        if not isinstance(groups, list | tuple | str):
            yield "groups", f"a list of texts was wanted, this is {kind_of(groups)}"
        else:
            for group in [groups] if isinstance(groups, str) else groups:
                yield from text_problems("groups", group, may_be_empty=True)
    if raw.get(MARGIN) is not None:
        margin = raw[MARGIN]
        if isinstance(margin, bool) or not isinstance(margin, int | float):
            yield MARGIN, f"a number of at least 0 was wanted, this is {kind_of(margin)}"
        elif not (_is_finite(margin) and margin >= 0):
            yield MARGIN, f"a finite number of at least 0 was wanted, this is {short(str(margin))}"


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False


def message_problems(side: str, messages: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(field, what is wrong) of a list of messages."""
    if not messages:
        yield side, "an empty list of messages"
    for number, message in enumerate(messages):
        place = f"{side}[{number}]"
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            yield place, "a message {role, content} was wanted"
            continue
        if message["role"] not in _ROLES:
            yield (
                f"{place}.role",
                f"one of {', '.join(_ROLES)} was wanted, this is {short(str(message['role']))}",
            )
        yield from text_problems(f"{place}.content", message["content"])
        if message.get(
            "tool_calls"
        ):  # dropped in silence, the model would see another conversation than the file's
            yield f"{place}.tool_calls", "tool calls are not supported"


def _answer_problems(pair: dict[str, list[dict[str, str]]]) -> Iterator[tuple[str, str]]:
    for side in ("chosen", "rejected"):
        messages = pair[side]
        if not messages or not messages[-1]["content"].strip():
            yield side, "nothing but whitespace is left when the common prompt is taken off"
        elif messages[-1]["role"] != "assistant":
            yield side, f"the last message is the {messages[-1]['role']}'s, an assistant's answer was wanted"
    if not any(message["content"].strip() for message in pair["prompt"]):
        yield "prompt", "the common beginning of the two sides is only whitespace; add a prompt column"


def _squeezed(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(message["role"], " ".join(message["content"].split())) for message in messages]


def _complete(
    raw: dict[str, Any],
    pair: dict[str, list[dict[str, str]]],
    source: str,
    made_ids: dict[str, int],
    counts: Counts,
) -> dict[str, Any]:
    sides = {
        side: [_message(message["role"], message["content"]) for message in pair[side]] for side in _SIDES
    }
    digest = _digest(sides)
    made = raw.get("id") is None
    times = made_ids[digest] = made_ids.get(digest, 0) + 1
    counts.repeated += times > 1
    identity = (digest if times == 1 else f"{digest}-{times}") if made else str(raw["id"])
    groups = raw.get("groups") or []
    return {
        **sides,
        "kind": raw.get("kind") or "unspecified",
        "axis": raw.get("axis") or "",
        "groups": [groups] if isinstance(groups, str) else list(groups),
        "cluster": raw.get("cluster") or _digest(_squeezed(sides["prompt"])),
        "source": raw.get("source") or source,
        "lang": raw.get("lang") or "und",
        "id": identity,
        "_id_is_made": made,
        **({MARGIN: float(raw[MARGIN])} if raw.get(MARGIN) is not None else {}),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


def pairs_dataset(
    rows: Iterable[dict[str, Any]], counts: Counts | None = None, *, extra: Mapping[str, str] | None = None
) -> Dataset:
    """Complete rows (as :func:`validate_rows` returns them) -> a ``Dataset`` with the fixed :func:`features`.

    ``counts`` travels with it, as :func:`counts_of` (through ``select``, ``filter`` and ``map``). ``extra``: further columns
    of a source, name -> dtype ("string", "float64"). Where a row has a ``margin``, all get the column (0 where absent).

    Raises: DataError if there are no rows, or a row lacks one of :data:`PAIR_COLUMNS`.
    """
    from datasets import Dataset, Value

    extra = dict(extra or {})
    rows = list(rows)
    if not rows:
        raise DataError("there are no preference pairs", where="pairs", fix="give at least one")
    for number, row in enumerate(rows):
        missing = [name for name in (*PAIR_COLUMNS, *extra) if name not in row]
        if missing:
            raise DataError(
                f"a pair lacks {', '.join(missing)}",
                where=f"pair {number + 1}",
                fix="pass rows through teachfair.data.pairs.validate_rows first",
            )
    columns = {name: [row[name] for row in rows] for name in (*PAIR_COLUMNS, *extra)}
    if any(row.get(MARGIN) is not None for row in rows):
        columns[MARGIN], extra[MARGIN] = [row.get(MARGIN) or 0.0 for row in rows], "float64"
    kinds = features()
    kinds.update({name: Value(dtype) for name, dtype in extra.items()})
    made = Dataset.from_dict(columns, features=kinds)
    if counts is not None:
        made.info.description = json.dumps(vars(counts))
    return made


def margins_of(pairs: Dataset) -> list[float]:
    """The severity margin of each pair, reward units: 0 where it has none, also where the whole set has no such column.

    (Concatenated with a set that has the column, ``datasets`` fills in nulls for one that has not.)
    """
    if MARGIN not in pairs.column_names:
        return [0.0] * len(pairs)
    return [float(margin or 0.0) for margin in pairs[MARGIN]]


def counts_of(pairs: Dataset) -> dict[str, Any]:
    """How a source's rows were read: the fields of :class:`Counts`; empty where that is not known."""
    try:
        found = json.loads(pairs.info.description)
    except (AttributeError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def checked(
    rows: Iterable[Any],
    where: str,
    *,
    lines: Sequence[int] | None = None,
    drop_equal: bool = False,
    source: str = "",
    limit_errors: int = 20,
) -> tuple[list[dict[str, Any]], Counts]:
    """:func:`validate_rows`, with every problem (up to ``limit_errors``, and the total) in one DataError."""
    counts = Counts()
    good, problems = validate_rows(
        rows, where, lines=lines, drop_equal=drop_equal, source=source, counts=counts
    )
    only_equal = all(problem.what.startswith("equals rejected") for problem in problems)
    refuse(
        problems,
        bad=counts.read - counts.kept - counts.dropped_equal,
        read=counts.read,
        rows="preference rows",
        limit=limit_errors,
        fix="drop these pairs, or pass --drop_equal" if only_equal else "mend or remove these rows",
    )
    if not good:
        what = (
            f"all {counts.read} pairs have equal sides"
            if counts.read
            else "the file holds no preference rows"
        )
        raise DataError(what, where=where, fix="give a file with at least one pair whose sides differ")
    if counts.dropped_equal:
        logger.warning("%s: dropped %d pairs with equal sides", where, counts.dropped_equal)
    if counts.repeated:
        logger.warning("%s: %d pairs repeat an earlier one word for word (kept)", where, counts.repeated)
    if counts.extracted_prompts:
        logger.info("%s: %d prompts extracted from common beginnings", where, counts.extracted_prompts)
    return good, counts


def read_preference_file(
    path: str | Path, *, drop_equal: bool = False, limit_errors: int = 20, source: str = ""
) -> tuple[list[dict[str, Any]], Counts]:
    """Read a preference file in TRL's format: JSONL, a JSON list, parquet or CSV, by its suffix. UTF-8.

    Returns: (complete conversational rows, :class:`Counts`); ``pairs_dataset(rows)`` makes the Dataset.
    Raises: DataError that lists each malformed row as ``file:line: field: what was wrong`` (at most
    ``limit_errors``, with the total). In parquet and CSV the line is the row's number and the line where its
    record ends.
    """
    path = Path(path)
    lines, rows = read_rows(path)
    return checked(
        rows,
        path.name,
        lines=lines,
        drop_equal=drop_equal,
        source=source or path.stem,
        limit_errors=limit_errors,
    )


def local_file(path_or_id: str | Path, split: str) -> Path | None:
    """The file that is meant: the one named, or ``<split>`` of a folder; None where it can only be a hub id.

    Raises: DataError if there is no such file, or a folder holds none or several of the split.
    """
    path = Path(path_or_id)
    if path.is_dir():
        found = [path / f"{split}{suffix}" for suffix in FORMATS if (path / f"{split}{suffix}").is_file()]
        if len(found) != 1:
            raise DataError(
                f"the folder holds {len(found) or 'no'} files of split {split!r}, one was wanted",
                where=str(path),
                fix=f"name the file itself, or keep one of {', '.join(split + suffix for suffix in FORMATS)}",
            )
        path = found[0]
    if path.exists():
        return path
    if path.suffix.lower() in FORMATS or path.is_absolute() or str(path_or_id).count("/") > 1:
        raise DataError("there is no such file", where=str(path_or_id), fix="check the path")
    return None


def read_rows(path: Path) -> tuple[list[int], list[Any]]:
    """The rows of a preference file as they are, and the line of each; a row that cannot be read is in its place.

    Raises: DataError if the file as a whole cannot be read.
    """
    if path.suffix.lower() not in FORMATS:
        raise DataError(
            f"cannot tell the format of a {path.suffix or 'suffix-less'} file",
            where=str(path),
            fix=f"use one of {', '.join(FORMATS)}",
        )
    content = read_bytes(path, what="row")
    if path.suffix.lower() == ".csv":
        lines, rows = csv_rows(path, content, needed=_SIDES)
        for row in rows:
            if isinstance(row, dict) and isinstance(row.get(MARGIN), str):  # a CSV has texts only
                row[MARGIN] = _number_in(row[MARGIN])
    else:
        read = {".parquet": parquet_rows, ".json": json_rows}.get(path.suffix.lower(), jsonl_rows)
        lines, rows = read(path, content)
    return lines, rows


def _number_in(text: str) -> float | str | None:
    """The number that a cell holds, None of an empty one, the text itself (which is then refused) of any other."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text
