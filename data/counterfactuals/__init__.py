"""Counterfactual texts, English and French: the same text about the other group.

>>> swap("She gave her brother his book.", "en").text
'He gave his sister her book.'
>>> swap("Une infirmière gentille est venue.", "fr").text
'Un infirmier gentil est venu.'

Deterministic and without a model: word lists (``lists/``, each with its source and licence) and rules of agreement. How
often each kind of phenomenon goes wrong is measured and published in docs/counterfactuals.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from teachfair.data.counterfactuals.texts import Change, Left, Swapped, read_list
from teachfair.errors import ConfigError, InputError, unknown_name

__all__ = ["AXES", "LANGUAGES", "Change", "Left", "Swapped", "groups_of", "swap"]

LANGUAGES = {"en": "english", "fr": "french"}
AXES = ("gender", "origin", "religion")


def groups_of(axis: str, lang: str) -> tuple[str, ...]:
    """The groups that can be paired on an axis ("gender" has its two without being asked)."""
    if axis == "gender":
        return ("female", "male")
    return tuple(row["group"] for row in read_list(f"{LANGUAGES[lang]}_{axis}s"))


def swap(
    text: str,
    lang: str,
    axis: str = "gender",
    *,
    groups: Sequence[str] | None = None,
    names: bool = True,
    definitional: str = "text",
    unsure: str = "leave",
    parser: Callable[[str], Sequence[object]] | None = None,
) -> Swapped:
    """``text`` about the other group: every group word exchanged, and what agrees with it made to agree.

    Args:
        lang: "en" or "fr".
        axis: "gender" exchanges female and male; "origin" and "religion" exchange the two ``groups`` and keep gender.
        groups: two names of :func:`groups_of`; required for origin and religion, because no pair of countries is *the*
            counterfactual of another; not used for gender.
        names: exchange given names too.
        definitional: a word that holds of one sex by its meaning ("pregnant", "prostate"): "text" leaves the whole text
            as it is, because "he is pregnant" says something else; "word" leaves that word only. Listed in ``left``.
        unsure: gender only: a text with a structure in which the rules are known to go wrong (a pronoun that may mean a
            thing, a name that no list knows …): "leave" leaves the whole text, with the reasons ("unsure: …") in ``left``,
            because a wrong counterfactual teaches something false and a missing one only costs data; "swap" exchanges it
            by the best guess. ``doubts`` of the result has the reasons either way.
        parser: French only: a function from a text to its parsed words (:class:`~.parsing.ParsedWord`). What it says of
            agreement is taken instead of the rules'. Without one the rules decide.

    Returns: the text, the changes in order of place (spans in ``text``), and what was left with the reason. A text with
        nothing to exchange comes back as it is, with no changes.
    Raises: ConfigError for an unknown language, axis, group or option; InputError if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"{type(text).__name__} instead of text", where="swap", fix="give a string")
    if lang not in LANGUAGES:
        raise unknown_name("lang", str(lang), LANGUAGES)
    if axis not in AXES:
        raise unknown_name("axis", str(axis), AXES)
    if definitional not in ("text", "word"):
        raise unknown_name("definitional", str(definitional), ("text", "word"))
    if unsure not in ("leave", "swap"):
        raise unknown_name("unsure", str(unsure), ("leave", "swap"))
    if parser is not None and (lang != "fr" or axis != "gender"):
        raise ConfigError(
            "a parser decides French gender agreement only", where=f"swap, {lang}, {axis}", fix="leave parser out"
        )
    from teachfair.data.counterfactuals import english, french

    if axis == "gender":
        if lang == "en":
            return english.swap_gender(text, names=names, definitional=definitional, unsure=unsure)
        return french.swap_gender(text, names=names, definitional=definitional, unsure=unsure, parser=parser)
    known = {row["group"]: row for row in read_list(f"{LANGUAGES[lang]}_{axis}s")}
    if groups is None or isinstance(groups, str) or len(groups) != 2 or groups[0] == groups[1]:
        raise ConfigError(
            f"{groups!r} does not name the two groups to exchange", where=f"swap, axis {axis}",
            fix=f"give groups=(one, other) of: {', '.join(sorted(known))}",
        )  # fmt: skip
    for group in groups:
        if group not in known:
            raise unknown_name("group", str(group), known)
    rows = known[groups[0]], known[groups[1]]
    if lang == "en":
        return english.swap_groups(text, rows, names=names)
    from teachfair.data.counterfactuals import french_groups

    return french_groups.swap_groups(text, rows, names=names)
