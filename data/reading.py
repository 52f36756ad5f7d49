"""From the bytes of a data file to rows with their places: what the readers of pairs and of authors' formats share.

A row that cannot be read becomes :class:`Unreadable` in its place, so that it is reported among the others and hides none of
them. Every problem is a :class:`Problem`, and :func:`refuse` puts all of them (up to a limit) into one error.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from teachfair.errors import DataError

LARGEST_CELL = 64 * 1024 * 1024  # csv's own limit, 131,072 characters, refuses a long but honest text


class Problem(NamedTuple):
    """One malformed field: ``str()`` gives ``where:line: field: what``; in a JSON document the line is a path: ``$[3]``."""

    where: str
    line: int | str | None
    field: str
    what: str

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        return f"{place}: {self.field}: {self.what}"


class Unreadable(NamedTuple):
    """Stands for a line that could not become a row, so that it is reported in its place among the others."""

    field: str
    what: str


def refuse(
    problems: Sequence[Problem],
    *,
    bad: int,
    read: int,
    rows: str = "rows",
    limit: int = 20,
    fix: str = "mend or remove these rows",
) -> None:
    """Raise one DataError that lists ``problems`` up to ``limit``, with the total; nothing where there are none."""
    if not problems:
        return
    shown = [str(problem) for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"… and {len(problems) - limit} more problems")
    raise DataError(f"{bad} of {read} {rows} cannot be used", where="\n    ".join(["", *shown]), fix=fix)


def read_bytes(path: Path, *, what: str = "row") -> bytes:
    """The content of a file, unpacked if its name ends in .gz, without a UTF-8 byte-order mark.

    Raises: DataError if it cannot be read or unpacked, is empty, or is UTF-16.
    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"not a whole gzip file ({short(str(error), 80)})", where=str(path), fix="download the file again"
        ) from error
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", where=str(path), fix="check the path") from error
    if not content.strip():
        raise DataError("the file is empty", where=str(path), fix=f"give a file with at least one {what}")
    return content if path.suffix.lower() == ".parquet" else without_byte_order_mark(content, path)


def decoded(path: Path, content: bytes) -> tuple[str, str]:
    """The text of an authors' file in UTF-8 or, where it is no UTF-8, in cp1252 (as Windows programs save it).

    Returns: (text, encoding). Raises: DataError where neither fits: a byte that cp1252 lacks, or a file that mixes both
    encodings, which would become mojibake ("Ã©") without a word.
    """
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        place = f"{path.name}:{line}: file"
        if content.count(b"\0"):
            raise DataError(
                "neither UTF-8 nor cp1252: it holds NUL bytes (UTF-16 without a mark?)",
                where=place,
                fix="save the file as UTF-8",
            ) from error
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError as other:
            byte = content[other.start]
            line = content[: other.start].count(b"\n") + 1
            raise DataError(
                f"neither UTF-8 nor cp1252: byte 0x{byte:02x}",
                where=f"{path.name}:{line}: file",
                fix="save the file as UTF-8",
            ) from error
        for number, each in enumerate(content.split(b"\n"), start=1):
            if not each.isascii() and _is_utf8(each):
                raise DataError(
                    f"the file mixes encodings: line {line} is not UTF-8 and line {number} is",
                    where=place,
                    fix="save the whole file as UTF-8",
                ) from error
        return text, "cp1252"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def json_document(path: Path, content: bytes) -> Any:
    """A whole JSON file as one value. Raises: DataError with the line where it stops being JSON."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(not_utf8(error), where=f"{path.name}:{line}: file", fix="save the file as UTF-8") from error
    try:
        return json.loads(text, object_pairs_hook=_object_without_repeats)
    except json.JSONDecodeError as error:
        what, line = f"not valid JSON: {error.msg}", error.lineno
    except RecursionError:
        what, line = "not usable JSON: nested too deeply", 1
    except ValueError as error:  # a repeated key, or an integer of thousands of digits
        what, line = f"not usable JSON: {short(str(error), 100)}", 1
    raise DataError(what, where=f"{path.name}:{line}: file", fix="restore the authors' file")


def hub_rows(
    dataset_id: str, name: str | None, split: str, *, converted: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """Rows of a split of a hub dataset, class labels by their names.

    Args:
        name: of the configuration.
        converted: the repository holds a loading script, which ``datasets`` no longer runs: read the tables that the hub
            itself makes of it (branch refs/convert/parquet, one folder per configuration).

    Raises: DataError if it cannot be loaded (no such dataset, offline, a loading script).
    """
    import datasets

    if converted:
        options |= {"revision": "refs/convert/parquet", "data_dir": name}
        name = None
    try:
        table = datasets.load_dataset(dataset_id, name, split=split, **options)
    except Exception as error:  # the hub client raises a dozen unrelated types; the user needs one message
        raise DataError(
            f"neither a file nor a dataset that could be loaded ({type(error).__name__}: {short(str(error), 200)})",
            where=f"{dataset_id}, split {split}",
            fix="check name, split and network, or give a local file or folder",
        ) from error
    labels = {name: kind for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    return [
        {key: labels[key].int2str(value) if key in labels and isinstance(value, int) and value >= 0 else value
         for key, value in row.items()}
        for row in table
    ]  # fmt: skip


def text_problems(name: str, value: Any, *, may_be_empty: bool = False) -> Iterator[tuple[str, str]]:
    """(field, what) where ``value`` is no usable text: another type, empty, NUL, half a surrogate pair."""
    if not isinstance(value, str):
        yield name, f"text was wanted, this is {kind_of(value)}"
    elif not value.strip() and not may_be_empty:
        yield name, "empty or only whitespace"
    elif "\0" in value:
        yield name, "holds a NUL character"
    else:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            yield name, "holds half of a surrogate pair, which is not valid Unicode"


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and value != value:
        return "NaN"
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        str: "text",
    }
    return f"{names.get(type(value), type(value).__name__)} ({short(repr(value))})"


def short(text: str, width: int = 40) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    # repr-like escapes: a hostile value must not move the cursor of the terminal that shows the message
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def without_byte_order_mark(content: bytes, path: Path) -> bytes:
    if content.startswith(b"\xef\xbb\xbf"):
        return content[3:]  # Windows editors write it; it means UTF-8 and nothing else
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            "the file is UTF-16 (it begins with a byte-order mark)",
            where=f"{path.name}:1: file",
            fix="save it as UTF-8",
        )
    return content


def not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    try:
        meant = bytes([byte]).decode("cp1252")
        guess = f"; in cp1252 (Windows) it would be {meant!r}: convert the file to UTF-8"
    except UnicodeDecodeError:
        guess = ""
    return f"not UTF-8: byte 0x{byte:02x} at byte {error.start + 1}{guess}"


def jsonl_rows(path: Path, content: bytes) -> tuple[list[int], list[Any]]:
    lines, rows = [], []
    # only \n ends a line: U+2028 and friends may stand inside a JSON string
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        lines.append(number)
        try:
            rows.append(parsed_json(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            rows.append(Unreadable("row", not_utf8(error)))
    return lines, rows


def parsed_json(text: str) -> Any:
    """One line of JSON as a value, or :class:`Unreadable` with the reason."""
    try:
        return json.loads(text, object_pairs_hook=_object_without_repeats)
    except json.JSONDecodeError as error:
        return Unreadable("row", f"not valid JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return Unreadable("row", "not usable JSON: nested too deeply")
    except ValueError as error:  # a repeated key, or an integer of thousands of digits
        return Unreadable("row", f"not usable JSON: {short(str(error), 100)}")


def _object_without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal keys in silence: which answer was `chosen` would be a guess
    found = dict(items)
    if len(found) != len(items):
        repeated = next(key for number, (key, _) in enumerate(items) if key in dict(items[:number]))
        raise ValueError(f"the key {short(repeated)!r} occurs twice")
    return found


def json_rows(path: Path, content: bytes) -> tuple[list[int], list[Any]]:
    """Elements of a JSON list, each with the line it begins on; a file of one object per line is read as
    JSONL."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(not_utf8(error), where=f"{path.name}:{line}: file", fix="save the file as UTF-8") from error
    if not text.lstrip().startswith("["):
        return jsonl_rows(path, content)
    decoder = json.JSONDecoder(object_pairs_hook=_object_without_repeats)
    lines: list[int] = []
    rows: list[Any] = []
    at = text.index("[") + 1
    line, counted = 1, 0

    def broken(what: str, position: int) -> DataError:
        place = text[:position].count("\n") + 1
        return DataError(
            f"not a valid JSON list: {what}",
            where=f"{path.name}:{place}: file",
            fix="mend the file, or write one JSON object per line (.jsonl)",
        )

    at = _skip_space(text, at)
    if text[at : at + 1] == "]":
        end = at + 1
    else:
        while True:
            line, counted = line + text.count("\n", counted, at), at
            try:
                value, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                raise broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise broken(short(str(error), 100), at) from error
            lines.append(line)
            rows.append(value)
            at = _skip_space(text, at)
            mark = text[at : at + 1]
            if mark == "]":
                end = at + 1
                break
            if mark != ",":
                raise broken("a comma or ] was wanted", at)
            at = _skip_space(text, at + 1)
    if text[end:].strip():
        raise broken("something follows the closing ]", _skip_space(text, end))
    return lines, rows


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def csv_rows(path: Path, content: bytes, *, needed: Sequence[str] = ()) -> tuple[list[int], list[Any]]:
    """Rows of a UTF-8 CSV, each with the line where it ends. See :func:`csv_text_rows`."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(not_utf8(error), where=f"{path.name}:{line}: file", fix="save the file as UTF-8") from error
    return csv_text_rows(path, text, needed=needed)


def csv_text_rows(path: Path, text: str, *, needed: Sequence[str] = ()) -> tuple[list[int], list[Any]]:
    """Rows of a CSV text. An empty cell of a column that is not ``needed`` is left out: it was not given.

    Raises: DataError for a column that occurs twice and for text that is not CSV.
    """
    lines: list[int] = []
    rows: list[Any] = []
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    largest = csv.field_size_limit(LARGEST_CELL)
    try:
        names = reader.fieldnames or []
        for name in names:
            if names.count(name) > 1:
                raise DataError(
                    f"the column {short(name)!r} occurs twice",
                    where=f"{path.name}:1: header",
                    fix="name each column once",
                )
        for row in reader:
            lines.append(reader.line_num)
            if None in row:
                rows.append(Unreadable("row", "more cells than the header has columns (a comma that needs quotes?)"))
            else:
                rows.append({key: value for key, value in row.items() if value or key in needed})
    except csv.Error as error:
        raise DataError(
            f"not valid CSV: {error}",
            where=f"{path.name}:{reader.line_num}: file",
            fix="mend the file, or use .jsonl",
        ) from error
    finally:
        csv.field_size_limit(largest)
    return lines, rows


def parquet_rows(path: Path, content: bytes) -> tuple[list[int], list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        rows = pa.parquet.read_table(pa.BufferReader(content)).to_pylist()
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"not a readable parquet file: {short(str(error), 120)}", where=str(path), fix="write it again"
        ) from error
    return list(range(1, len(rows) + 1)), rows
