"""A text as words and what lies between, its edits, and the word lists: what English and French swapping share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from teachfair.errors import DataError

LISTS = Path(__file__).parent / "lists"

# A letter may carry combining accents (NFD texts); digits belong to no word.
_LETTER = r"[^\W\d_][\u0300-\u036f]*"
_APOSTROPHES = "'’ʼ"
_HYPHENS = "-‐‑"


class Change(NamedTuple):
    """One exchange: ``text[start:end] == old`` of the original became ``new``; ``kind``: pronoun, name, noun …"""

    start: int
    end: int
    old: str
    new: str
    kind: str


class Left(NamedTuple):
    """What was not exchanged though it names a group: ``text[start:end] == word``, and why."""

    start: int
    end: int
    word: str
    reason: str


UNSURE = "unsure: "  # the reasons that begin so are doubts about a structure, not rules about a word


@dataclass(frozen=True)
class Swapped:
    """A counterfactual text, every change that made it, and what was left with the reason.

    ``doubts``: the structures of the text in which the rules are known to go wrong, their reasons beginning with
    "unsure: ". With ``unsure="leave"`` a text with a doubt is left whole and its doubts are in ``left`` too.
    """

    text: str
    changes: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    doubts: list[Left] = field(default_factory=list)

    @property
    def undecided(self) -> bool:
        """Whether the text was left as it is because of a doubt."""
        return bool(self.doubts) and not self.changes


def decided(text: str, made: Swapped, doubts: Iterable[Left], unsure: str) -> Swapped:
    """``made``, or the text left whole if there are doubts and ``unsure`` is "leave"."""
    if not (found := sorted(set(doubts))):
        return made
    if unsure == "leave":
        return Swapped(text, [], sorted([*made.left, *found]), found)
    return Swapped(made.text, made.changes, made.left, found)


@dataclass
class Word:
    """A word of a text. ``new``: what it becomes; ``gender``, ``target``: before and after, where it has one."""

    start: int
    end: int
    text: str
    key: str
    new: str = ""
    kind: str = ""
    gender: str = ""
    target: str = ""
    plural: bool = False
    human: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.new)

    @property
    def now(self) -> str:
        """The word as it will stand in the counterfactual."""
        return self.new or self.text


@lru_cache(maxsize=1 << 16)
def key_of(text: str) -> str:
    """The form under which the lists know a word: composed, lower case, straight apostrophes, plain hyphens and spaces."""
    plain = unicodedata.normalize("NFC", text).lower()
    plain = re.sub(f"[{_APOSTROPHES}]", "'", plain)
    return re.sub(r"\s+", " ", re.sub(f"[{_HYPHENS}]", "-", plain))


def words_of(text: str, phrases: Iterable[str] = (), elided: Iterable[str] = ()) -> list[Word]:
    """The words of ``text`` in order; the ``phrases`` (keys of several words) count as one word each, the longest first.

    ``elided``: keys before an apostrophe that are words of their own, together with it ("l'", "qu'").
    """
    pattern = _pattern(tuple(phrases), tuple(elided))
    return [Word(found.start(), found.end(), found[0], key_of(found[0])) for found in pattern.finditer(text)]


@cache
def _pattern(phrases: tuple[str, ...], elided: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(phrases, key=len, reverse=True)
    # one look behind for all phrases: most words begin none of them
    every = "|".join(_spelled(phrase) for phrase in longest)
    parts = [rf"(?<!\w)(?:{every})(?![\w\u0300-\u036f])"] if every else []
    if elided:
        before = "|".join(sorted((word.rstrip("'") for word in elided), key=len, reverse=True))
        parts.append(rf"(?<!\w)(?:{before})[{_APOSTROPHES}](?={_LETTER})")
    return re.compile("|".join([*parts, rf"(?:{_LETTER})+"]), re.IGNORECASE)


def _spelled(phrase: str) -> str:
    """A phrase as a pattern: any white space, any apostrophe, any hyphen, accents composed or not."""
    made = []
    for letter in phrase:
        if letter == " ":
            made.append(r"\s+")
        elif letter == "'":
            made.append(f"[{_APOSTROPHES}]")
        elif letter == "-":
            made.append(f"[{_HYPHENS}]")
        else:
            apart = unicodedata.normalize("NFD", letter)
            made.append(f"(?:{re.escape(letter)}|{re.escape(apart)})" if apart != letter else re.escape(letter))
    return "".join(made)


def like(old: str, new: str, shouting: bool = False) -> str:
    """``new`` with the capitals, apostrophes and hyphens of ``old``; ``shouting``: its neighbours are all capitals."""
    letters = [c for c in old if c.isalpha()]
    if not letters or not new:
        return new
    if old.isupper() and (len(letters) > 1 or shouting):
        made = new.upper()
    elif letters[0].isupper():
        parts = re.split(r"(\W+)", old)
        every = len(parts) > 1 and all(part[:1].isupper() for part in parts[::2] if part)
        made = re.sub(r"[^\W\d_]+", lambda m: m[0][:1].upper() + m[0][1:], new) if every else new[:1].upper() + new[1:]
    else:
        made = new
    for mark in _APOSTROPHES[1:]:
        if mark in old:
            made = made.replace("'", mark)
    for mark in _HYPHENS[1:]:
        if mark in old:
            made = made.replace("-", mark)
    if "\u00a0" in old:
        made = made.replace(" ", "\u00a0")
    return made


def shouted(words: Sequence[Word], place: int) -> bool:
    """Whether the neighbours of a word are in capitals: then a single capital letter ("L'", "À") is shouted too."""
    near = [words[k].text for k in (place + 1, place - 1) if 0 <= k < len(words)]
    long = [text for text in near if sum(c.isalpha() for c in text) > 1]
    return bool(long) and long[0].isupper()


def edited(text: str, changes: Iterable[Change]) -> str:
    """``text`` with the changes made. They must not overlap."""
    made, at = [], 0
    for change in sorted(changes):
        made += [text[at : change.start], change.new]
        at = change.end
    return "".join([*made, text[at:]])


def between(text: str, words: Sequence[Word], place: int) -> str:
    """What lies between the word at ``place`` and the one before it (the text's beginning if there is none)."""
    return text[words[place - 1].end if place > 0 else 0 : words[place].start]


@cache
def read_list(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a word list of this folder. The header lines ("# source: …") are for people.

    Raises: DataError for a row with more fields than the list has columns, or a list without a complete header.
    """
    path = LISTS / f"{name}.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    head = " ".join(line for line in lines if line.startswith("#"))
    for part in ("source:", "licence:", "language:", "how made:"):
        if part not in head:
            raise DataError(f"no {part!r} in the header", where=str(path), fix="say where the list is from")
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not line.strip():
            continue
        fields = [part.strip() for part in line.split("\t")]
        if not columns:
            columns = fields
            continue
        if len(fields) > len(columns):
            raise DataError(f"{len(fields)} fields, {len(columns)} columns", where=f"{path}:{number}", fix="use tabs")
        rows.append(dict(zip(columns, [*fields, *[""] * (len(columns) - len(fields))], strict=True)))
    return tuple(rows)


@cache
def name_pairs(lang: str) -> dict[str, tuple[str, str, bool]]:
    """Given name (key) → (the other gender's name, its own gender "m" or "f", whether it is also an ordinary word)."""
    found: dict[str, tuple[str, str, bool]] = {}
    for row in read_list("english_names" if lang == "en" else "french_names"):
        for mine, other, gender in ((row["male"], row["female"], "m"), (row["female"], row["male"], "f")):
            if key_of(mine) in found:
                raise DataError(f"{mine} is in two rows", where=f"the {lang} names", fix="a name has one counterpart")
            found[key_of(mine)] = (other, gender, row["word"] == "word")
    return found


@cache
def origin_names(one: str, other: str) -> dict[str, tuple[str, str]]:
    """Given name (key) → (the name of the same rank and gender of the other set, its gender), both ways."""
    sets = {(row["set"], row["gender"]): row["names"].split() for row in read_list("origin_names")}
    found: dict[str, tuple[str, str]] = {}
    if one == other or not one or not other:
        return found
    for gender in "mf":
        for a, b in zip(sets[one, gender], sets[other, gender], strict=True):
            found[key_of(a)] = (b, gender)
            found[key_of(b)] = (a, gender)
    return found


def starts_sentence(text: str, words: Sequence[Word], place: int) -> bool:
    """Whether the word opens the text, a line or a sentence."""
    gap = between(text, words, place)
    return place == 0 or bool(re.search(r"[.!?…:\n]\s*[\"“«(‘]*\s*$", gap))


def ends_phrase(text: str, words: Sequence[Word], place: int) -> bool:
    """Whether nothing follows the word, or something other than white space does (a mark, a digit, a bracket)."""
    if place + 1 >= len(words):
        return True
    gap = between(text, words, place + 1)
    return not gap or bool(gap.strip())


def capital(word: Word) -> bool:
    return word.text[:1].isupper()
