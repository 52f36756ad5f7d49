"""A text with its group words exchanged: she for he, Ann for Ben. The counterfactual of a prompt or an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from teachfair.errors import InputError

Swap = Mapping[str, str] | Iterable[Sequence[str]]


def swap_mapping(swap: Any, where: str = "swap") -> dict[str, str]:
    """A swap in any of its forms as one mapping, lower case, both directions.

    Args:
        swap: ``{"she": "he"}`` or ``[["she", "he"]]``; None or empty: nothing is exchanged. A mapping's values that
            are None are left out (``datasets`` gives every row the keys of all rows, None where a row has none).
    Raises: InputError if it has neither form, an entry is not text, or a word would become two different ones.
    """
    if not swap:
        return {}
    entries = list(swap.items()) if isinstance(swap, Mapping) else [tuple(entry) for entry in swap]
    both: dict[str, str] = {}
    for entry in entries:
        if isinstance(swap, Mapping) and entry[1] is None:
            continue
        if len(entry) != 2 or not all(isinstance(word, str) and word.strip() for word in entry):
            raise InputError(
                f"{entry!r} does not say which two words change places", where=where,
                fix='give [["she", "he"], …] or {"she": "he", …}',
            )  # fmt: skip
        one, other = (word.lower() for word in entry)
        for a, b in ((one, other), (other, one)):
            if both.setdefault(a, b) != b:
                raise InputError(
                    f"{a!r} would become both {both[a]!r} and {b!r}", where=where,
                    fix="name each word in one pair only (her → his and her → him cannot both be exchanged)",
                )  # fmt: skip
    return both


def swapped_text(text: str, swap: Any) -> str:
    """``text`` with the words of ``swap`` exchanged, both ways at once, whole words only, keeping their capitals.

    >>> swapped_text("She saw Ann.", [["she", "he"], ["Ann", "Ben"]])
    'He saw Ben.'
    """
    mapping = swap_mapping(swap)
    if not mapping:
        return text
    # longest first: "old woman" is exchanged as a whole before "woman" is
    words = "|".join(re.escape(word) for word in sorted(mapping, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda found: _like(found[0], mapping), text, flags=re.IGNORECASE)


def swapped_messages(messages: Sequence[Mapping[str, str]], swap: Any) -> list[dict[str, str]]:
    """A conversation with the words of ``swap`` exchanged in every message's content."""
    return [{**message, "content": swapped_text(message["content"], swap)} for message in messages]


def _like(found: str, mapping: Mapping[str, str]) -> str:
    other = mapping.get(found.lower(), found)
    if len(found) > 1 and found.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if found[:1].isupper() else other
