"""Texts in, labels out: the files of the classifier door."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from teachfair.errors import ConfigError, DataError

COLUMNS = ("label", "probability", "reward", "calibrated", "reason", "text")


def read_texts(path: str) -> Iterator[str]:
    """The lines of a UTF-8 file, or of standard input for ``-``, one at a time, without their line ends.

    Raises: DataError (``file:line``) if a line is not UTF-8 or the file is empty; ConfigError if there is no such file.
    """
    if path == "-":
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    if not Path(path).is_file():
        raise ConfigError("no such text file", where=f"--file {path}", fix="give a UTF-8 file with one text per line")
    with open(path, "rb") as stream:
        yield from _lines(stream, path)


def _lines(stream: IO[bytes], name: str) -> Iterator[str]:
    number = 0
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8 ({error.reason} at byte {error.start})", where=f"{name}:{number}",
                fix="convert the file to UTF-8",
            ) from error  # fmt: skip
    if number == 0:
        raise DataError("the file is empty", where=name, fix="give one text per line")


def write_classified(rows: Iterable[dict[str, Any]], output: str | None, *, overwrite: bool = False) -> int:
    """Write one line per row: JSONL, or CSV where ``output`` ends in .csv; standard output where it is None.

    The file appears whole, when the last row is done. In CSV a text that a spreadsheet would run as a formula gets a
    leading apostrophe; in JSONL texts are as they came.

    Returns: number of rows.
    Raises: ConfigError for another ending, or a file that is already there without ``overwrite``.
    """
    if output is None:
        return _write(rows, sys.stdout, as_csv=False)
    path = Path(output)
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"unknown output format {path.suffix!r}", where="--output", fix="end the name in .jsonl or .csv")
    if path.exists() and not overwrite:
        raise ConfigError("the output file is already there", where=output, fix="choose another name, or pass --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            n = _write(rows, stream, as_csv=path.suffix == ".csv")
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return n


def _write(rows: Iterable[dict[str, Any]], stream: IO[str], *, as_csv: bool) -> int:
    n = 0
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore") if as_csv else None
    if writer is not None:
        writer.writeheader()
    for row in rows:
        n += 1
        if writer is not None:
            writer.writerow({**row, "text": _not_a_formula(row["text"])})
        else:
            print(json.dumps({key: row[key] for key in COLUMNS if key in row}, ensure_ascii=False), file=stream)
    return n


def _not_a_formula(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
