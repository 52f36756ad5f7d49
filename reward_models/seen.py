"""Which pairs a reward model has learned from, so that nobody judges it on them by mistake.

``trained_on.txt`` in the model's folder has one digest a line: of the prompt and the two answers, whichever of them was
chosen. Texts cannot be read back from it (but a known pair can be looked up).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from teachfair.models.checkpoint import member_folders
from teachfair.runs import write_text

FILE = "trained_on.txt"
_PARTS = ("prompt", "chosen", "rejected")


def digest(pair: Mapping[str, Any]) -> str:
    """16 hex digits of a conversational pair; the same with its two answers exchanged."""
    texts = [[[message["role"], message["content"].strip()] for message in pair[part]] for part in _PARTS]
    content = json.dumps([texts[0], *sorted(texts[1:])], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_seen(folder: Path, pairs: Iterable[Mapping[str, Any]]) -> None:
    """Write the digests of the training pairs into a reward-model folder."""
    write_text(folder / FILE, "".join(f"{one}\n" for one in sorted({digest(pair) for pair in pairs})))


def seen_by(path: str | Path) -> frozenset[str] | None:
    """Digests of what a reward model, or any member of an ensemble, was trained on; None where its folder does not say."""
    found: set[str] = set()
    for folder in member_folders(path) or [Path(path)]:
        if not (folder / FILE).is_file():
            return None
        found.update((folder / FILE).read_text(encoding="utf-8").split())
    return frozenset(found)
