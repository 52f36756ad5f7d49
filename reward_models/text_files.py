"""Rows in, labels out: the files of the classifier door, one row at a time, so that a file may be larger than memory.

A row keeps its place and its columns. What cannot be read becomes a row with ``problems`` (``data.reading.Problem``), so
that a stream can go on behind it. Positions are bytes from the beginning of the (unpacked) file; of a parquet file, rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from teachfair.data.reading import (
    LARGEST_CELL,
    Problem,
    Unreadable,
    kind_of,
    not_utf8,
    parsed_json,
    short,
    text_problems,
    without_byte_order_mark,
)
from teachfair.errors import ConfigError, DataError

FORMATS = ("txt", "jsonl", "csv", "parquet")
OUTPUTS = (".jsonl", ".csv", ".parquet")
KINDS = ("text", "conversation", "pair")

# What is written of a row, in this order, before the row's own columns.
ANSWERS = {
    "text": ("label", "probability", "reward", "disagreement", "windows", "calibrated", "reason"),
    "pair": (
        "reward_chosen", "reward_rejected", "probability_chosen", "probability_rejected", "probability_chosen_fairer",
        "agrees", "disagreement", "windows", "calibrated", "reason",
    ),
}  # fmt: skip
ANSWERS["conversation"] = ANSWERS["text"]


@dataclass
class Row:
    """One row: its columns as they came, and what is to be scored.

    ``text``: kind "text"; ``messages``: kind "conversation", the answer last; ``pair``: kind "pair", with ``prompt, chosen,
    rejected``, lists of messages. None where there are ``problems``. ``end``: the position behind it.
    """

    line: int
    end: int
    columns: dict[str, Any]
    text: str | None = None
    messages: list[dict[str, str]] | None = None
    pair: dict[str, Any] | None = None
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where reading starts: position, line (or row) number before it, what rows are, and a CSV's header."""

    position: int = 0
    line: int = 0
    kind: str | None = None
    header: list[str] | None = None


class Source:
    """A file of rows, or standard input (``-``). Iterating gives :class:`Row` from ``start`` on.

    What a row is, is decided by the first one that can be read: a pair if it has ``chosen`` and ``rejected``, a
    conversation if it has ``messages``, or ``prompt`` and ``completion``; else the text of ``text_column``. A
    ``text_column`` that is given decides for text.

    Raises: ConfigError if there is no such file, or its format cannot be told; DataError if it is empty or UTF-16.
    """

    def __init__(
        self, path: str, *, format: str = "auto", text_column: str | None = None, start: Place | None = None
    ) -> None:
        self.path = path
        self.start = start or Place()
        self.text_column = text_column
        self.kind = self.start.kind
        self.header = self.start.header
        self.is_stdin = path == "-"
        self.name = "standard input" if self.is_stdin else Path(path).name
        if not self.is_stdin and not Path(path).is_file():
            raise ConfigError("no such file", where=f"--file {path}", fix="give a file of texts, JSONL, CSV or parquet")
        self.must_tell = format == "auto" and (self.is_stdin or _by_name(path) is None)
        self.format = format if format != "auto" else ("txt" if self.is_stdin else _by_name(path) or "txt")
        if self.format == "parquet" and self.is_stdin:
            raise ConfigError("parquet cannot be read from a stream", where="--format parquet", fix="give --file a name")
        # by which the way through the file is told, unpacked or not: no file is read twice for that
        self.size = None if self.is_stdin else Path(path).stat().st_size
        self.read = 0  # of ``size``

    def __iter__(self) -> Iterator[Row]:
        if self.format == "parquet":
            yield from self._parquet()
            return
        with _opened(self.path) as (raw, stream):
            lines = _Lines(stream, self.path, self.start, raw)
            any_row = False
            for row in self._csv(lines) if self.format == "csv" else self._lines(lines):
                any_row = True
                self.read = lines.raw_position()
                yield row
            if not any_row and self.start.position == 0:
                raise DataError("the file is empty", where=self.path, fix="give at least one row")

    def place_after(self, row: Row) -> Place:
        return Place(row.end, row.line, self.kind, self.header)

    def _lines(self, lines: _Lines) -> Iterator[Row]:
        for line in lines:
            content = line.content
            if self.must_tell and content is not None:
                self.must_tell = False
                self._refuse_to_guess(content)
            if self.format == "txt":
                row = Row(line.number, line.end, {}, text=content if content is not None else line.shown)
                problems = [line.problem] if line.problem else list(text_problems("text", content, may_be_empty=True))
                row.problems = [Problem(self.name, line.number, *problem) for problem in problems]
                row.columns = {"text": row.text}
                if row.problems:
                    row.text = None
                self.kind = "text"
                yield row
                continue
            if content is not None and not content.strip():
                continue  # an empty line between JSON rows is no row
            value: Any = Unreadable(*line.problem) if line.problem else parsed_json(content or "")
            yield self._row(value, line.number, line.end)

    def _refuse_to_guess(self, content: str) -> None:
        if content.lstrip().startswith("{") and isinstance(parsed_json(content), dict):
            raise ConfigError(
                "its first line is a JSON object, and neither a name nor --format says that it is JSONL",
                where=self.name, fix="say --format jsonl, or --format txt to score the lines as they are",
            )  # fmt: skip

    def _csv(self, lines: _Lines) -> Iterator[Row]:
        largest = csv.field_size_limit(LARGEST_CELL)
        reader = csv.reader((line.shown_whole for line in lines), strict=True)
        try:
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if self.header is None:
                        raise DataError(
                            f"not valid CSV: {error}", where=f"{self.name}:{lines.number}: header", fix="mend the file"
                        ) from error
                    yield self._row(Unreadable("row", f"not valid CSV: {error}"), lines.number, lines.position)
                    continue
                if not cells:
                    continue
                if self.header is None:
                    self.header = cells
                    for name in cells:
                        if cells.count(name) > 1:
                            raise DataError(
                                f"the column {short(name)!r} occurs twice",
                                where=f"{self.name}:1: header", fix="name each column once",
                            )  # fmt: skip
                    continue
                yield self._row(self._cells(cells), lines.number, lines.position)
        finally:
            csv.field_size_limit(largest)

    def _cells(self, cells: list[str]) -> Any:
        header = self.header or []
        for name, cell in zip(header, cells, strict=False):
            try:
                cell.encode("utf-8")
            except UnicodeEncodeError:
                try:
                    cell.encode("utf-8", "surrogateescape").decode("utf-8")
                except UnicodeDecodeError as error:
                    return Unreadable(name, not_utf8(error))
        if len(cells) > len(header):
            return Unreadable("row", "more cells than the header has columns (a comma that needs quotes?)")
        if len(cells) < len(header):
            return Unreadable("row", f"{len(cells)} cells, the header has {len(header)} columns")
        return dict(zip(header, cells, strict=True))

    def _parquet(self) -> Iterator[Row]:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.ParquetFile(self.path)
            self.size = table.metadata.num_rows
            if not self.size:
                raise DataError("the file has no rows", where=self.path, fix="give at least one row")
            number = 0
            for group in range(table.num_row_groups):
                rows_in_group = table.metadata.row_group(group).num_rows
                if number + rows_in_group <= self.start.position:
                    number += rows_in_group
                    continue
                for batch in table.iter_batches(batch_size=1024, row_groups=[group]):
                    for value in batch.to_pylist():
                        number += 1
                        if number > self.start.position:
                            self.read = number
                            yield self._row(value, number, number)
        except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"not a readable parquet file: {short(str(error), 120)}", where=self.path, fix="write it again"
            ) from error

    def _row(self, value: Any, number: int, end: int) -> Row:
        row = Row(number, end, dict(value) if isinstance(value, dict) else {})
        if isinstance(value, Unreadable):
            row.problems = [Problem(self.name, number, value.field, value.what)]
            return row
        if not isinstance(value, dict):
            row.problems = [Problem(self.name, number, "row", f"an object was wanted, this is {kind_of(value)}")]
            return row
        if self.kind is None:
            self.kind = self._kind_of(value)
        found: list[tuple[str, str]] = []
        if self.kind == "text":
            column = self.text_column or "text"
            if column not in value:
                has = ", ".join(short(str(key)) for key in list(value)[:8]) or "nothing"
                found = [(column, f"missing (this row has: {has}); --text_column names another")]
            else:
                found = list(text_problems(column, value[column], may_be_empty=True))
                row.text = value[column]
        elif self.kind == "conversation":
            row.messages, found = _conversation(value)
        else:
            row.pair, row.problems = _pair(value, self.name, number)
        row.problems += [Problem(self.name, number, *problem) for problem in found]
        if row.problems:
            row.text = row.messages = row.pair = None
        return row

    def _kind_of(self, value: Mapping[str, Any]) -> str:
        if self.text_column is not None:
            return "text"
        if "chosen" in value and "rejected" in value:
            return "pair"
        if "messages" in value or ("prompt" in value and "completion" in value):
            return "conversation"
        return "text"


class Texts:
    """Texts that are in memory already, as a :class:`Source`."""

    size: int | None = None
    read = 0
    kind = "text"

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[Row]:
        for number, text in enumerate(self.texts, start=1):
            found = text_problems("text", text, may_be_empty=True)
            problems = [Problem("text", number, *problem) for problem in found]
            yield Row(number, number, {"text": text}, text=None if problems else text, problems=problems)

    def place_after(self, row: Row) -> Place:
        return Place(row.end, row.line, self.kind)


def _conversation(value: Mapping[str, Any]) -> tuple[list[dict[str, str]] | None, list[tuple[str, str]]]:
    from teachfair.data.pairs import message_problems

    messages: list[Any] = []
    problems: list[tuple[str, str]] = []
    fields = ("messages",) if "messages" in value else ("prompt", "completion")
    for name in fields:
        part = value.get(name)
        if isinstance(part, list):
            problems += message_problems(name, part)
            messages += part
        elif name == "messages":
            problems.append((name, f"a list of messages was wanted, this is {kind_of(part)}"))
        else:
            problems += text_problems(name, part)
            messages.append({"role": "user" if name == "prompt" else "assistant", "content": part})
    if not problems and messages[-1]["role"] != "assistant":
        problems.append((fields[-1], f"the last message is the {messages[-1]['role']}'s, an assistant's answer was wanted"))
    if problems:
        return None, problems
    return [{"role": message["role"], "content": message["content"]} for message in messages], []


def _pair(value: Mapping[str, Any], name: str, number: int) -> tuple[dict[str, Any] | None, list[Problem]]:
    from teachfair.data.pairs import validate_rows

    sides = {side: value[side] for side in ("prompt", "chosen", "rejected") if value.get(side) is not None}
    good, problems = validate_rows([sides], name, lines=[number])
    return (good[0] if good else None), problems


def _by_name(path: str) -> str | None:
    """The format that a file's name tells, or None. Raises: ConfigError for .json, which cannot be streamed."""
    ending = Path(path).suffix.lower()
    if ending == ".gz":
        ending = Path(Path(path).stem).suffix.lower()
    if ending == ".json":
        raise ConfigError(
            "a JSON document cannot be read row by row", where=f"--file {path}",
            fix="write one JSON object per line (.jsonl), or say --format jsonl if it is that already",
        )  # fmt: skip
    return {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "txt"}.get(ending)


class _opened:
    """The raw file, by which the way through it is told, and the stream of its (unpacked) bytes."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> tuple[IO[bytes] | None, IO[bytes]]:
        if self.path == "-":
            self.raw = None
            return None, sys.stdin.buffer
        try:
            self.raw = open(self.path, "rb")
        except OSError as error:
            raise DataError(f"the file cannot be read ({error.strerror})", where=self.path, fix="check it") from error
        if self.path.lower().endswith(".gz"):
            return self.raw, io.BufferedReader(gzip.GzipFile(fileobj=self.raw))
        return self.raw, self.raw

    def __exit__(self, *_: Any) -> None:
        if self.raw is not None:
            self.raw.close()


@dataclass
class _Line:
    """A line without its end: decoded, or with the reason why it is not; ``shown``: decoded come what may."""

    number: int
    end: int
    content: str | None
    shown: str
    shown_whole: str
    problem: tuple[str, str] | None = None


class _Lines:
    """The lines of a stream from a place on. Only \\n ends a line: U+2028 and friends may stand inside a JSON string."""

    def __init__(self, stream: IO[bytes], path: str, start: Place, raw: IO[bytes] | None) -> None:
        self.stream, self.path, self.raw = stream, path, raw
        self.position, self.number = start.position, start.line
        if start.position:
            stream.seek(start.position)

    def raw_position(self) -> int:
        return self.position if self.raw is None or self.raw is self.stream else self.raw.tell()

    def __iter__(self) -> Iterator[_Line]:
        try:
            while content := self.stream.readline(LARGEST_CELL + 1):
                first = self.position == 0
                self.number += 1
                self.position += len(content)
                problem = None
                if len(content) > LARGEST_CELL:
                    problem = ("row", f"a line of more than {LARGEST_CELL >> 20} MiB")
                    while not content.endswith(b"\n") and (rest := self.stream.readline(LARGEST_CELL)):
                        self.position += len(rest)
                        content = rest[-1:]
                    content = b"\n"
                if first:
                    content = without_byte_order_mark(content, Path(self.path))
                yield self._line(content, problem)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"not a whole gzip file ({short(str(error), 80)})", where=self.path, fix="download the file again"
            ) from error

    def _line(self, content: bytes, problem: tuple[str, str] | None) -> _Line:
        bare = content.rstrip(b"\r\n")
        try:
            text: str | None = bare.decode("utf-8") if problem is None else None
        except UnicodeDecodeError as error:
            text, problem = None, ("row", not_utf8(error))
        return _Line(
            self.number, self.position, text,
            shown=text if text is not None else bare.decode("utf-8", "backslashreplace"),
            # a quoted CSV cell may hold line ends; undecodable bytes are found again in their cell
            shown_whole=content.decode("utf-8", "surrogateescape"), problem=problem,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- writing


def output_path(output: str, *, overwrite: bool) -> Path:
    """Raises: ConfigError for an ending that is no known format, or a file that is there without ``overwrite``."""
    path = Path(output)
    if path.suffix not in OUTPUTS:
        raise ConfigError(
            f"unknown output format {path.suffix!r}", where="--output", fix="end the name in .jsonl, .csv or .parquet"
        )
    if path.exists() and not overwrite:
        raise ConfigError("the output file is already there", where=output, fix="choose another name, or pass --overwrite")
    return path


def as_json_line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON, without its end; NaN and what JSON has no type for become null and text."""
    line = json.dumps(row, ensure_ascii=False, default=str, allow_nan=True)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: only an escape can carry it
        line = json.dumps(row, ensure_ascii=True, default=str, allow_nan=True)
    return line


class CsvLines:
    """Rows as CSV lines. A text that a spreadsheet would run as a formula gets a leading apostrophe."""

    def __init__(self, columns: Iterable[str]) -> None:
        self.columns = list(columns)
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, lineterminator="\n")

    def header(self) -> str:
        return self._line(self.columns)

    def line(self, row: Mapping[str, Any]) -> str:
        return self._line([_cell(row.get(name)) for name in self.columns])

    def _line(self, cells: list[Any]) -> str:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._writer.writerow(cells)
        return self._buffer.getvalue().encode("utf-8", "backslashreplace").decode()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def parquet_from_jsonl(lines: Path, out: Path, *, rows_at_once: int = 4096) -> None:
    """A parquet file of a JSONL file's rows, in bounded memory: one pass for the types, one for the rows.

    A column whose values are of types that do not go together becomes text (each value as JSON).
    """
    import pyarrow as pa
    from pyarrow import parquet

    def chunks() -> Iterator[list[dict[str, Any]]]:
        with open(lines, encoding="utf-8") as stream:
            while chunk := [json.loads(line) for _, line in zip(range(rows_at_once), stream, strict=False)]:
                yield chunk

    kinds: dict[str, Any] = {}
    for chunk in chunks():
        for name in dict.fromkeys(name for row in chunk for name in row):
            values = [_as_utf8(row.get(name)) for row in chunk]
            try:
                kind = pa.array(values).type
                if name in kinds:
                    both = [pa.schema([(name, one)]) for one in (kinds[name], kind)]
                    kind = pa.unify_schemas(both, promote_options="permissive").field(0).type
                kinds[name] = kind
            except (pa.ArrowException, TypeError, OverflowError):
                kinds[name] = pa.string()
    schema = pa.schema([(_as_utf8(name), kind) for name, kind in kinds.items()])
    with parquet.ParquetWriter(out, schema) as writer:
        for chunk in chunks():
            columns = []
            for name, kind in kinds.items():
                values = [_as_utf8(row.get(name)) for row in chunk]
                if kind == pa.string():
                    values = [one if one is None or isinstance(one, str) else json.dumps(one) for one in values]
                columns.append(pa.array(values, type=kind))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _as_utf8(value: Any) -> Any:
    """``value`` with every half of a surrogate pair, for which UTF-8 has no bytes, written as its escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_as_utf8(one) for one in value]
    if isinstance(value, dict):
        return {_as_utf8(name): _as_utf8(one) for name, one in value.items()}
    return value


def replace(aside: Path, path: Path) -> None:
    """Put a file that was written aside to its place, whole."""
    with open(aside, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(aside, path)


