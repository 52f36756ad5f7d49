"""Counterfactuals for prompts of one's own: which language and axis a row is of, and its prompt about the other group.

What cannot be exchanged is not guessed: a row without a language, or about an axis that the rules do not know, has no
counterfactual, and the report counts why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from teachfair.data.counterfactuals import LANGUAGES, groups_of
from teachfair.data.counterfactuals.rows import counterfactual_columns
from teachfair.errors import unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

GIVEN = ("swap", "counterfactual_prompt")  # columns by which rows bring counterfactuals of their own
RULES = "counterfactual_rules"  # [lang, axis, *groups]: what swap() takes to exchange an answer; empty: nothing is exchanged
_AXES = {"": "gender", "gender": "gender", "religion": "religion", "nationality": "origin", "origin": "origin"}


def counterfactual_rules(row: Mapping[str, Any], *, lang: str | None = None) -> tuple[list[str], str]:
    """By which rules a row's texts are exchanged, as ``[lang, axis, *groups]``, or an empty list and why not.

    The language is the row's ``lang``, or ``lang`` where it says none; the axis is the row's, or gender where it says none;
    religion and nationality need two of the rules' groups in the row's ``groups`` (BBQ's "Muslim", "Christian").
    """
    spoken, about = str(row.get("lang") or ""), str(row.get("axis") or "")
    if spoken in ("", "und"):
        spoken = lang or ""
    if not spoken:
        return [], "no language is said"
    if spoken not in LANGUAGES:
        return [], f"language {spoken}"
    if about not in _AXES:
        return [], f"axis {about}"
    axis = _AXES[about]
    if axis == "gender":
        return [spoken, axis], ""
    known, named = groups_of(axis, spoken), row.get("groups") or ()
    groups = sorted({str(name).lower() for name in ([named] if isinstance(named, str) else named)} & set(known))
    return ([spoken, axis, *groups], "") if len(groups) == 2 else ([], f"axis {about} without two groups of the rules")


def add_counterfactuals(prompts: Dataset, *, lang: str | None = None) -> tuple[Dataset, dict[str, Any]]:
    """Prompts with the columns ``counterfactual_prompt`` and ``counterfactual_rules`` that ``FairnessReward`` reads.

    Rows that bring a column of :data:`GIVEN` are left as they are, and so are all if none can be exchanged. A prompt that
    is there twice is exchanged once.

    Returns: (the prompts, ``{"by": "rules" or "the rows' own", "rows": n, "with": n, "without": reason -> n}``).
    Raises: ConfigError for a ``lang`` that the rules do not know.
    """
    if lang is not None and lang not in LANGUAGES:
        raise unknown_name("counterfactual_lang", lang, LANGUAGES)
    names = [name for name in GIVEN if name in prompts.column_names]
    if names:
        own = sum(any(row) for row in zip(*(prompts[name] for name in names), strict=True))
        without = {"empty in the file": len(prompts) - own} if own < len(prompts) else {}
        return prompts, {"by": "the rows' own", "rows": len(prompts), "with": own, "without": without}
    prompts = prompts.remove_columns([name for name in (RULES,) if name in prompts.column_names])  # of no prompt
    made: dict[str, list[dict[str, str]]] = {}
    others: list[list[dict[str, str]]] = []
    rules: list[list[str]] = []
    reasons: Counter[str] = Counter()
    columns = [name for name in ("prompt", "lang", "axis", "groups") if name in prompts.column_names]
    for row in prompts.select_columns(columns):
        found, why = counterfactual_rules(row, lang=lang)
        other: list[dict[str, str]] = []
        if found:
            key = str((found, row["prompt"]))
            if key not in made:
                made[key] = _exchanged(row["prompt"], found)
            other, why = made[key], "nothing to exchange in the prompt"
        if not other:
            reasons[why] += 1
        others.append(other)
        rules.append(found if other else [])
    n_with = sum(map(bool, others))
    report = {"by": "rules", "rows": len(prompts), "with": n_with, "without": dict(sorted(reasons.items()))}
    if not n_with:
        return prompts, report
    from datasets import List, Value

    text = Value("string")
    prompts = prompts.add_column("counterfactual_prompt", others, feature=List({"role": text, "content": text}))
    return prompts.add_column(RULES, rules, feature=List(text)), report


def _exchanged(prompt: list[dict[str, str]], rules: list[str]) -> list[dict[str, str]]:
    lang, axis, *groups = rules
    turns: list[dict[str, str]] = counterfactual_columns(prompt, lang, axis, groups=groups or None)["counterfactual_prompt"]
    return turns
