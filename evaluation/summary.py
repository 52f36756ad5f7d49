"""An evaluation's summary as lines for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from teachfair.evaluation.evaluate import SUMMARY


def summary_lines(folder: str | Path) -> list[str]:
    """Every number of ``summary.json``, indented by nesting; an undefined one says why."""
    summary = json.loads((Path(folder) / SUMMARY).read_text(encoding="utf-8"))
    undefined = summary.get("undefined", {})
    lines = []
    for name, numbers in summary["benchmarks"].items():
        lines.append(f"{name}:")
        lines += list(_lines(numbers, name, undefined, depth=1))
    return lines


def _lines(numbers: dict[str, Any], path: str, undefined: dict[str, str], depth: int) -> Iterator[str]:
    for key, value in numbers.items():
        if key == "reasons":
            continue
        place = f"{path}.{key}"
        if isinstance(value, dict):
            yield f"{'  ' * depth}{key}:"
            yield from _lines(value, place, undefined, depth + 1)
        elif value is None:
            yield f"{'  ' * depth}{key:<34} undefined: {undefined.get(place, 'no such items')}"
        elif isinstance(value, float):
            yield f"{'  ' * depth}{key:<34} {value:.4g}"
        else:
            yield f"{'  ' * depth}{key:<34} {value}"
