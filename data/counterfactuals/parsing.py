"""French agreement by a dependency parse instead of the rules: a small hook, and an adapter for spaCy.

A parser is any function from a text to its parsed words. What the parse says of adjectives, participles and their
subjects is taken; people, pronouns, determiners and elision stay with the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.texts import Word, like, shouted
from teachfair.errors import ConfigError


class ParsedWord(NamedTuple):
    """A word of a parse: ``text[start:end]``, its universal part of speech and relation, and its head's index."""

    start: int
    end: int
    pos: str
    dep: str
    head: int


def agree_by_parse(text: str, words: list[Word], parsed: Sequence[Any]) -> None:
    """Make adjectives and participles agree with the swapped word that the parse says they belong to; in place."""
    by_start = {word.start: (place, word) for place, word in enumerate(words)}
    for index, item in enumerate(parsed):
        if item.pos not in ("ADJ", "VERB") or item.start not in by_start:
            continue
        place, word = by_start[item.start]
        if word.changed or word.human:
            continue
        owner = _owner(parsed, index, set())
        if owner is None or parsed[owner].start not in by_start:
            continue
        subject = by_start[parsed[owner].start][1]
        if not subject.human:
            continue
        for gender in subject.gender if subject.gender in ("m", "f") else "fm":
            new = forms.adjective(word.key, gender, subject.plural)
            if new and not _has_avoir(text, parsed, index):
                word.new, word.kind = (
                    like(word.text, new, shouted(words, place)),
                    "participle" if item.pos == "VERB" else "adjective",
                )
                break


def _owner(parsed: Sequence[Any], index: int, seen: set[int]) -> int | None:
    """The word that ``index`` agrees with: its subject if it is a predicate, the noun it describes otherwise."""
    if index in seen:
        return None
    seen.add(index)
    for child, item in enumerate(parsed):
        if item.head == index and item.dep.startswith("nsubj") and child != index:
            return child
    item = parsed[index]
    if item.dep in ("amod", "acl", "nmod", "appos"):
        return int(item.head)
    if item.dep in ("conj", "xcomp", "advcl") and item.head != index:
        if parsed[item.head].pos in ("NOUN", "PROPN") and item.dep == "conj" and not _subjects(parsed, item.head):
            return int(item.head)
        return _owner(parsed, item.head, seen)
    return None


def _subjects(parsed: Sequence[Any], index: int) -> bool:
    return any(item.head == index and item.dep.startswith("nsubj") for item in parsed)


def _has_avoir(text: str, parsed: Sequence[Any], index: int) -> bool:
    """A participle with avoir does not agree with its subject; "a été nommée" does."""
    auxiliaries = [text[i.start : i.end].lower() for i in parsed if i.head == index and i.dep.startswith("aux")]
    return bool(auxiliaries) and not any(a in ("été",) or a[:1] in "esfé" for a in auxiliaries)


def spacy_parser(pipeline: str = "fr_core_news_sm") -> Callable[[str], list[ParsedWord]]:
    """A parser made of an installed spaCy pipeline.

    Raises: ConfigError if spaCy or the pipeline is not installed (neither comes with this package).
    """
    try:
        import spacy

        loaded = spacy.load(pipeline)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"the French pipeline {pipeline} is not to be had: {error}", where="spacy_parser",
            fix="install spacy and fr-core-news-sm, or leave the parser out: the rules need neither",
        ) from error  # fmt: skip

    def parse(text: str) -> list[ParsedWord]:
        return [ParsedWord(t.idx, t.idx + len(t.text), t.pos_, t.dep_, t.head.i) for t in loaded(text)]

    return parse
