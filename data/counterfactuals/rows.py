"""A prompt data set with its counterfactuals: the columns ``counterfactual_prompt`` and ``swap`` of FairnessReward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from teachfair.data.counterfactuals import Swapped, swap
from teachfair.errors import ConfigError, DataError

# Exchanges of words in an answer, where only one word for one word can be told (no her → him): the most common reading.
ANSWER_PAIRS = {
    "en": (("he", "she"), ("his", "her"), ("himself", "herself"), ("man", "woman"), ("men", "women"), ("boy", "girl"),
           ("male", "female"), ("mr", "ms")),
    "fr": (("il", "elle"), ("ils", "elles"), ("homme", "femme"), ("hommes", "femmes"), ("monsieur", "madame")),
}  # fmt: skip
_TURN = "\n\x1e\n"  # parts the turns of a conversation, so that a pronoun finds its noun in an earlier turn


def counterfactual_columns(
    prompt: str | Sequence[Mapping[str, str]],
    lang: str,
    axis: str = "gender",
    *,
    groups: Sequence[str] | None = None,
    names: bool = True,
    unsure: str = "leave",
) -> dict[str, Any]:
    """The counterfactual of one prompt, as FairnessReward reads it.

    ``unsure``: see :func:`~teachfair.data.counterfactuals.swap`; a doubt in one turn leaves the whole conversation.

    Returns: ``counterfactual_prompt`` (messages; empty if nothing was exchanged), ``swap`` (word pairs for the answer;
        empty likewise) and ``counterfactual_left`` (texts "word: reason": what was not exchanged). A row without a
        counterfactual is one that FairnessReward counts as such and gives no penalty.
    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    contents = [turn["content"] for turn in turns]
    options: dict[str, Any] = {"groups": groups, "names": names, "unsure": unsure}
    if any("\x1e" in content for content in contents):
        parts = [swap(content, lang, axis, **options) for content in contents]
        texts = [part.text for part in parts]
        if any(part.undecided or left.reason == "definitional" for part in parts for left in part.left):
            texts, parts = contents, [Swapped(part.text, [], part.left) for part in parts]
    else:
        parts = [swap(_TURN.join(contents), lang, axis, **options)]
        texts = parts[0].text.split(_TURN)
    changes = [change for part in parts for change in part.changes]
    left = [f"{item.word}: {item.reason}" for part in parts for item in part.left]
    if not changes:
        return {"counterfactual_prompt": [], "swap": [], "counterfactual_left": left}
    pairs = [(c.old.strip().lower(), c.new.strip().lower()) for c in changes if c.kind not in _NOT_FOR_ANSWERS]
    if axis == "gender":
        pairs += ANSWER_PAIRS[lang]
    swapped = [{**turn, "content": text} for turn, text in zip(turns, texts, strict=True)]
    return {"counterfactual_prompt": swapped, "swap": _one_to_one(pairs), "counterfactual_left": left}


# what follows from other changes, or has no one counterpart, is left to the words themselves
_NOT_FOR_ANSWERS = frozenset(
    "pronoun possessive article determiner contraction elision clitic adjective participle country".split()
)


def with_counterfactuals(
    rows: Any,
    lang: str | None = None,
    axis: str = "gender",
    *,
    groups: Sequence[str] | None = None,
    names: bool = True,
    unsure: str = "leave",
    prompt: str = "prompt",
) -> Any:
    """A prompt data set with the columns of :func:`counterfactual_columns` added (or replaced).

    Args:
        rows: a ``datasets.Dataset``, or any rows that are mappings.
        lang: "en" or "fr" for all rows; None: each row's own ``lang``.
        prompt: the column that holds the prompt: text, or messages.
    Returns: a Dataset if one was given, else a list of new rows.
    Raises: ConfigError for an unknown language, axis or group; DataError naming the row that has no prompt or no
        language.
    """
    if lang is not None or groups is not None:
        swap("", lang or "en", axis, groups=groups, unsure=unsure)  # says at once what is wrong with the options

    def columns(row: Mapping[str, Any], number: int) -> dict[str, Any]:
        asked, spoken = row.get(prompt), lang or row.get("lang")
        if not asked or not isinstance(asked, str | list | tuple):
            raise DataError("no prompt", where=f"row {number}: {prompt}", fix="give a text or a list of messages")
        if not spoken:
            raise DataError("no language", where=f"row {number}: lang", fix="add a lang column, or give lang")
        try:
            return counterfactual_columns(asked, spoken, axis, groups=groups, names=names, unsure=unsure)
        except ConfigError as error:
            raise DataError(error.what, where=f"row {number}: lang", fix=error.fix) from error

    if hasattr(rows, "map") and hasattr(rows, "features"):
        features = _features(rows)
        return rows.map(columns, with_indices=True, features=features, desc="counterfactuals")
    return [{**row, **columns(row, number)} for number, row in enumerate(rows)]


def left_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have a counterfactual, how many have none, and how many words were left for each reason."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts["with a counterfactual" if row["counterfactual_prompt"] else "without a counterfactual"] += 1
        counts.update(f"left: {entry.rpartition(': ')[2]}" for entry in row["counterfactual_left"])
    return dict(sorted(counts.items()))


def _one_to_one(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The pairs in which no word has two counterparts; the first that names a word holds."""
    seen: set[str] = set()
    kept = []
    for one, other in pairs:
        if one and other and one != other and not {one, other} & seen:
            seen |= {one, other}
            kept.append([one, other])
    return kept


def _features(rows: Any) -> Any:
    from datasets import Features, Value

    text = Value("string")
    # typed, because a first batch without any swap would otherwise leave the columns untyped
    lists = type(Features.from_dict({"x": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}})["x"])
    old = {
        name: kind
        for name, kind in rows.features.items()
        if name not in ("counterfactual_prompt", "swap", "counterfactual_left")
    }
    return Features(
        {
            **old,
            "counterfactual_prompt": lists({"role": text, "content": text}),
            "swap": lists(lists(text)),
            "counterfactual_left": lists(text),
        }
    )
