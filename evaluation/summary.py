"""An evaluation's summary for the terminal: bias readings with their guard-rails first, then each benchmark's numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.evaluation.page import read_summary, short_number, verdict_sentence
from teachfair.evaluation.wording import interval_text, number
from teachfair.svg import plain

if TYPE_CHECKING:
    from rich.console import Console

    from teachfair.evaluation.readings import Comparison

_WIDTH = 110  # of a table that is printed line by line


def print_summary(folder: str | Path, console: Console) -> None:
    """Readings as a table, a reading's guard-rails in the rows below it; then each benchmark's headline numbers.

    Text from data is printed as text, never as markup or control codes.
    Raises: InputError if the summary holds a bias number without guard-rails.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    summary = read_summary(folder)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, numeric in (
        ("bias, and its guard-rails", False), ("value [95 %]", True), ("unit", False), ("target", True), ("records", True),
    ):  # fmt: skip
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    shown: list[Any] = []
    for reading in summary["bias"]:
        table.add_row(
            Text(plain(reading["benchmark"]), style="bold"), Text(_value(reading["value"])), Text(plain(reading["unit"])),
            Text(number(reading["target"])), Text(str(reading["n"])),
        )  # fmt: skip
        if reading["guard_rails"] in shown:
            table.add_row(Text("  the guard-rails are those above", style="dim"), *[Text("")] * 4)
            continue
        shown.append(reading["guard_rails"])
        for rail in reading["guard_rails"]:
            table.add_row(
                Text(f"  {plain(rail['name'])}"), Text(_value(rail["value"])), Text(plain(rail["unit"])), Text(""),
                Text(str(rail["n_records"])),
            )  # fmt: skip
    if summary["bias"]:
        console.print(table)
    else:
        console.print(
            Text("No bias number is shown: no benchmark that measures bias was scored together with guard-rails."),
            soft_wrap=True,
        )
    for name, why in summary["unguarded"].items():
        console.print(Text(f"{plain(name)}: no bias number is shown. {plain(why)}"), soft_wrap=True)
    for name, numbers in summary["benchmarks"].items():
        if name not in summary["unguarded"]:
            console.print(Text(f"{plain(name)}: {_headlines(name, numbers, summary['undefined'])}"), soft_wrap=True)


def summary_lines(folder: str | Path) -> list[str]:
    """:func:`print_summary` as lines of plain text, without colours."""
    from rich.console import Console

    stream = io.StringIO()
    print_summary(folder, Console(file=stream, width=_WIDTH, color_system=None, force_terminal=False))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def verdict_lines(verdicts: Sequence[Comparison]) -> list[str]:
    """A sentence for each verdict (``page.verdicts_against``): what it is, by how much, and why."""
    return [plain(verdict_sentence(found)) for found in verdicts]


def _value(parts: Mapping[str, Any]) -> str:
    return interval_text(parts, 3) if parts["value"] is not None else f"undefined: {plain(parts['reason'])}"


def _headlines(name: str, numbers: Mapping[str, Any], undefined: Mapping[str, str]) -> str:
    """A benchmark's own top-level numbers in a line; an undefined one says why, counts of nothing are left out."""
    parts = []
    for key, value in numbers.items():
        if value is None:
            parts.append(f"{plain(key)} undefined ({plain(undefined.get(f'{name}.{key}', 'no such items'))})")
        elif isinstance(value, int | float) and not (key.startswith("n_") and value == 0):
            parts.append(f"{plain(key)} {short_number(value)}")
    return ", ".join(parts) or "no number of its own"
