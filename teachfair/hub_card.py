"""What every file for the Hugging Face hub needs: text from data made safe for a card, and ``.eval_results``."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def write_eval_results(path: str | Path, entries: Sequence[EvalResultEntry]) -> Path:
    """Write a file of ``.eval_results/`` as the hub reads it."""
    from huggingface_hub import eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    return runs.write_text(path, yaml_dump(eval_result_entries_to_yaml(list(entries)), sort_keys=False))


def is_hub_id(name: str) -> bool:
    """Whether ``name`` is ``owner/name`` and not a path that lies here."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def number(value: Any) -> str:
    """Four significant digits; None is "not defined"."""
    return "not defined" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def one_line(text: Any) -> str:
    """One line without control characters and lone surrogates."""
    line = "".join(char if unicodedata.category(char) not in ("Cc", "Cs") else " " for char in str(text))
    return " ".join(line.split())


def escaped(value: Any) -> Any:
    """``value`` as literal text in a line or a table cell of Markdown; Markup stays as it is."""
    if hasattr(value, "__html__"):
        return value
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", html.escape(one_line(value), quote=False))
