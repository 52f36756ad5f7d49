"""How far a long evaluation is: a bar on standard error where somebody looks, nothing in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from teachfair.evaluation.evaluate import Progress


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """What to hand to ``evaluate(progress=…)``: one bar for each benchmark, sequences a second. None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks, began = {}, {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name], began[name] = bars.add_task(name, total=total, rate=""), time.monotonic()
            rate = done / max(time.monotonic() - began[name], 1e-9)
            bars.update(tasks[name], completed=done, total=total, rate=f"{rate:,.0f}/s")

        yield advance
