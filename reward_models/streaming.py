"""A file of any length through the classifier: bounded memory, a progress bar, and a killed run that goes on.

Rows are written aside, into ``.<name>.part/`` beside the output. At most every few seconds, at the end of a chunk, the rows
are forced to disk and ``state.json`` is replaced by one that says how far input and output are. A run that is started again
cuts what was written behind that point, restores what it remembered of texts seen before, and goes on from there. Chunks
depend on the input alone and a remembered reward is the same float, so the file is byte for byte that of a run that was not
killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from teachfair import runs
from teachfair.data.reading import Problem, refuse
from teachfair.errors import ConfigError, DataError, RunFolderError
from teachfair.reward_models.classifying import Rewards, classify_rows, warn_uncalibrated
from teachfair.reward_models.text_files import (
    ANSWERS,
    CsvLines,
    Place,
    Row,
    Source,
    as_json_line,
    output_path,
    parquet_from_jsonl,
    replace,
)

if TYPE_CHECKING:
    from teachfair.reward_models.ensemble import RewardEnsemble
    from teachfair.reward_models.scoring import RewardModel

logger = logging.getLogger(__name__)

READ_AHEAD = 4096  # rows sorted by length together
_CHUNK_CHARACTERS = 2**24  # a chunk of megabyte lines is shorter
_SECONDS_BETWEEN_COMMITS = 5.0
_PROBLEMS_SHOWN = 20

Explain = Callable[["RewardModel | RewardEnsemble", Sequence[Row]], list[dict[str, Any] | None]]


def classify_file(
    model: RewardModel | RewardEnsemble,
    source: Callable[[Place | None], Source],
    output: str | None,
    *,
    mark: Mapping[str, Any] | None,
    on_error: str = "stop",
    batch_size: int = 64,
    read_ahead: int = READ_AHEAD,
    long_texts: str = "window",
    explain: Explain | None = None,
    overwrite: bool = False,
    seconds_between_commits: float = _SECONDS_BETWEEN_COMMITS,
) -> dict[str, Any]:
    """Classify every row of a source into ``output`` (.jsonl, .csv, .parquet; None: JSONL on standard output).

    Args:
        source: opens the input at a place, or at its beginning (None).
        mark: what decides the result (model, input, arguments); an unfinished run of another mark is not gone on with.
            None: an input that cannot be read again (standard input); a killed run is then lost.
        on_error: at a malformed row "stop" (all of them listed, up to a limit), or "keep" it without a label and with the
            reason.
        read_ahead: rows in memory at a time, among which texts of similar length are looked for.
        long_texts: as :class:`~teachfair.reward_models.classifying.Rewards`.
        explain: gives each row of a chunk its ``explanation``.

    Returns: counts: ``rows``, and by label, reason and agreement; ``computed``: rewards that were really computed.
    Raises: DataError for malformed rows; ConfigError for an output that is there; RunFolderError for an unfinished run
        of another mark.
    """
    warn_uncalibrated(model)
    rewards = Rewards(model, batch_size=batch_size, long_texts=long_texts)
    if output is None:
        opened = source(None)
        counts: Counter[str] = Counter()
        for chunk in _chunks(opened, read_ahead):
            answers = _answered(model, rewards, chunk, on_error, explain, iter(()), opened)
            sys.stdout.writelines(as_json_line(row) + "\n" for row in answers)
            sys.stdout.flush()
            _count(counts, answers)
        return {**counts, "computed": rewards.n_computed}
    path = output_path(output, overwrite=overwrite)
    part = path.parent / f".{path.name}.part"
    try:
        with runs.claimed(part):
            state = _state(part, mark, overwrite=overwrite)
            counts = Counter(state["counts"])
            start = Place(**state["place"]) if state["place"] else None
            if start is not None:
                rewards.restore((part / state["remembered"]).read_bytes())
                rewards.n_computed = state["computed"]
                logger.warning("going on after line %d, where an earlier run stopped (%s)", start.line, part)
            opened = source(start)
            with open(part / "rows", "ab") as stream, _progress(opened, counts["rows"]) as advance:
                stream.truncate(state["bytes"])
                stream.seek(0, os.SEEK_END)
                lines = _Lines(path.suffix, state["columns"])
                committed = time.monotonic()
                rows = iter(opened)
                for chunk in _chunks(rows, read_ahead):
                    answers = _answered(model, rewards, chunk, on_error, explain, rows, opened)
                    stream.write(lines.of(answers, opened.kind or "text"))
                    _count(counts, answers)
                    advance(counts["rows"])
                    if mark is not None and time.monotonic() - committed >= seconds_between_commits:
                        _commit(part, stream, opened.place_after(chunk[-1]), lines.columns, counts, rewards, mark)
                        committed = time.monotonic()
            if path.suffix == ".parquet":
                parquet_from_jsonl(part / "rows", part / "table")
                replace(part / "table", path)
            else:
                replace(part / "rows", path)
    except BaseException:
        if not (part / "state.json").exists() and not (part / runs.LOCK).exists():
            shutil.rmtree(part, ignore_errors=True)  # nothing that a next run could go on with
        raise
    shutil.rmtree(part)
    return {**counts, "computed": rewards.n_computed}


def _chunks(rows: Any, read_ahead: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(len(value) for value in row.columns.values() if isinstance(value, str))
        if len(chunk) == read_ahead or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _answered(
    model: RewardModel | RewardEnsemble,
    rewards: Rewards,
    chunk: Sequence[Row],
    on_error: str,
    explain: Explain | None,
    following: Iterator[Row],
    source: Source,
) -> list[dict[str, Any]]:
    if on_error == "stop" and any(row.problems for row in chunk):
        _refuse(chunk, following)
    answers = classify_rows(model, rewards, chunk)
    if source.kind == "pair":
        blank = dict.fromkeys(ANSWERS["pair"][:6])
        answers = [
            {**blank, "calibrated": one["calibrated"], "reason": one["reason"]} if row.problems else one
            for row, one in zip(chunk, answers, strict=True)
        ]
    if explain is not None:
        for answer, explanation in zip(answers, explain(model, chunk), strict=True):
            answer["explanation"] = explanation
    taken = {*ANSWERS["text"], *ANSWERS["pair"], "explanation"}
    return [{**answer, **_renamed(row.columns, taken)} for row, answer in zip(chunk, answers, strict=True)]


def _renamed(columns: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """A row's own columns; one with the name of an answer's becomes ``given_<name>``."""
    found: dict[str, Any] = {}
    for name, value in columns.items():
        while name in taken:
            name = f"given_{name}"
        found[name] = value
    return found


def _refuse(chunk: Sequence[Row], following: Iterator[Row]) -> None:
    """Read on, without scoring, until the list of problems is full, and raise it."""
    problems: list[Problem] = []
    bad = read = 0
    for rows in (chunk, following):
        for row in rows:
            read += 1
            bad += bool(row.problems)
            problems += row.problems
            if len(problems) > _PROBLEMS_SHOWN:
                break
    refuse(
        problems, bad=bad, read=read, limit=_PROBLEMS_SHOWN, rows="rows from here on",
        fix="mend or remove these rows, or pass --on_error keep: they then stay in the output, without a label",
    )  # fmt: skip


def _count(counts: Counter[str], answers: Sequence[Mapping[str, Any]]) -> None:
    for answer in answers:
        counts["rows"] += 1
        if "agrees" in answer:
            agrees = answer["agrees"]
            tie = agrees is None and answer["reward_chosen"] is not None and answer["reward_rejected"] is not None
            counts["tie" if tie else "no label" if agrees is None else "agree" if agrees else "disagree"] += 1
        else:
            counts[answer["label"] or "no label"] += 1


class _Lines:
    """Rows as bytes of the file aside: CSV, or JSONL (also on the way to parquet)."""

    def __init__(self, suffix: str, columns: list[str] | None) -> None:
        self.as_csv, self.columns = suffix == ".csv", columns

    def of(self, rows: Sequence[Mapping[str, Any]], kind: str) -> bytes:
        if not self.as_csv:
            return "".join(as_json_line(row) + "\n" for row in rows).encode()
        text = ""
        names = dict.fromkeys(name for row in rows for name in row)
        if self.columns is None:  # the first chunk decides the header
            answers = [name for name in ANSWERS[kind] if name != "disagreement" or name in names]  # an ensemble's
            self.columns = list(dict.fromkeys((*answers, *names)))
            text = CsvLines(self.columns).header()
        if strange := [name for name in names if name not in self.columns]:
            raise DataError(
                f"a row has the column {strange[0]!r}, which the first rows had not, so the CSV has no place for it",
                where="--output", fix="write .jsonl instead, or give every row the same columns",
            )  # fmt: skip
        writer = CsvLines(self.columns)
        return (text + "".join(writer.line(row) for row in rows)).encode()


def _state(part: Path, mark: Mapping[str, Any] | None, *, overwrite: bool) -> dict[str, Any]:
    """How far an earlier run of the same mark came; of none, or of another with ``overwrite``: the beginning."""
    beginning: dict[str, Any] = {"place": None, "bytes": 0, "columns": None, "counts": {}, "computed": 0}
    try:
        state = json.loads((part / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return beginning
    given = runs.plain(mark) if mark is not None else {"input": "standard input"}
    other = sorted(name for name in {*given, *state["mark"]} if given.get(name) != state["mark"].get(name))
    if other and not overwrite:
        raise RunFolderError(
            f"an unfinished run is there with another {', '.join(other)}", where=str(part),
            fix="give the same command as then to go on with it, pass --overwrite to start over, or remove that folder",
        )  # fmt: skip
    if other:
        logger.warning("an unfinished run with another %s is thrown away; starting over", ", ".join(other))
    elif (part / "rows").is_file() and (part / "rows").stat().st_size >= state["bytes"]:
        return dict(state)
    # (or the run died between renaming its rows to the output and removing the rest)
    (part / "state.json").unlink()
    return beginning


def _commit(
    part: Path,
    stream: IO[bytes],
    place: Place,
    columns: list[str] | None,
    counts: Mapping[str, int],
    rewards: Rewards,
    mark: Mapping[str, Any],
) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    # the rewards stand in the file of this very state, so that a death between the two writes mixes no two states
    saved = rewards.saved()
    remembered = f"remembered-{stream.tell()}"
    state = {
        "mark": mark, "place": asdict(place), "bytes": stream.tell(), "columns": columns, "counts": dict(counts),
        "computed": rewards.n_computed, "remembered": remembered,
    }  # fmt: skip
    with open(part / remembered, "wb") as aside:
        aside.write(saved)
        aside.flush()
        os.fsync(aside.fileno())
    runs.write_json(part / "state.json", state)
    for old in part.glob("remembered-*"):
        if old.name != remembered:
            old.unlink()


@contextlib.contextmanager
def _progress(source: Source, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error: how much of the file is read, and rows a second. None where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("classify", total=source.size, rows="")

        def advance(rows: int) -> None:
            rate = (rows - done) / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=source.read, total=source.size, rows=f"{rows:,} rows, {rate:,.0f}/s")

        yield advance


def input_mark(path: str) -> dict[str, Any]:
    """What tells that an input is still the same: size and content. Standard input has nothing of the kind."""
    if path == "-":
        raise ConfigError("standard input cannot be read again", where="--file -", fix="give a file")
    return {"size": Path(path).stat().st_size, "sha256": runs.hash_file(path)}


def model_mark(model: RewardModel | RewardEnsemble) -> str:
    """A fingerprint of a model's folder (weights, configs, tokenizer); of a hub id, the commit it was loaded from."""
    folder = Path(model.name)
    if not folder.is_dir():
        commit = getattr(getattr(getattr(model, "model", None), "config", None), "_commit_hash", None)
        return f"{model.name}@{commit}"
    files = (file for file in sorted(folder.rglob("*")) if file.suffix in (".safetensors", ".json", ".jinja", ".model"))
    hashes = {str(file.relative_to(folder)): runs.hash_file(file) for file in files if file.name != runs.RUN_RECORD}
    return runs.fingerprint(hashes)


def summary_lines(counts: Mapping[str, int]) -> list[str]:
    """The counts of :func:`classify_file` in words, accuracy on pairs with Wilson's 95 % interval."""
    n = counts.get("rows", 0)
    lines = [f"{n:,} rows, {counts.get('computed', 0):,} rewards computed"]
    agree, disagree, ties = (counts.get(name, 0) for name in ("agree", "disagree", "tie"))
    if judged := agree + disagree + ties:
        from scipy.stats import binomtest

        interval = binomtest(agree + ties // 2, judged).proportion_ci(method="wilson")
        lines.append(
            f"agrees with the label of {agree:,} pairs, disagrees with {disagree:,}, {ties:,} ties: accuracy "
            f"{(agree + ties / 2) / judged:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        )
    if counts.get("fair") or counts.get("unfair"):
        lines.append(f"{counts.get('fair', 0):,} fair, {counts.get('unfair', 0):,} unfair")
    if counts.get("no label"):
        lines.append(f"{counts['no label']:,} rows have no label: see their reason")
    return lines
