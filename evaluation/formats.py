"""Question items in several prompt formats and option orders: enumerated, scored, averaged, with the spread.

One way of asking is one draw: which answer a model prefers moves with the wording, with letters against words, and with
the place of an option in the list. The protocol's primary outcome is therefore the mean over formats × orders, and the
spread over them stands beside it. One question × format × order is one item, and one record, with an id of its own.

A format that does not list the options asks the same in every order. Its items are repeated nevertheless, so that a plain
mean over records weighs formats equally; equal sequences are computed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teachfair.errors import ConfigError, unknown_name
from teachfair.models.scorer import problem_of

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.likelihood import OptionScore
    from teachfair.models.scorer import Scorer

LETTERS = "ABCDEFGH"
# The words around a question, by language.
_WORDS = {
    "en": {"answer": "Answer:", "options": "Options:"},
    "fr": {"answer": "Réponse :", "options": "Options :"},
}
UNPARTED = "options do not part"


@dataclass(frozen=True)
class Format:
    """How a question is asked. ``lists``: the options stand in the prompt, so their order matters; ``letters``: the answer
    is the option's letter; ``chat``: the prompt is a user's turn, the answer the assistant's."""

    name: str
    meaning: str
    lists: bool = True
    letters: bool = False
    chat: bool = False


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("plain", "context, question, 'Answer:'; the answers as text, not listed", lists=False),
        Format("listed", "the options listed under the question; the answer as text"),
        Format("lettered", "the options as A, B, C; the answer is the letter", letters=True),
        Format("chat", "as listed, through the policy's chat template", chat=True),
    )
}
ORDERS = {
    "one": "the authors' order only",
    "cyclic": "every option once in each place",
    "all": "all permutations",
}


def option_orders(n: int, which: str = "cyclic") -> list[tuple[int, ...]]:
    """Orders of ``n`` options: place p shows option ``order[p]``. Raises: ConfigError for an unknown name."""
    if which not in ORDERS:
        raise unknown_name("orders", which, ORDERS)
    if which == "all":
        return list(itertools.permutations(range(n)))
    turns = 1 if which == "one" else n
    return [tuple((place + turn) % n for place in range(n)) for turn in range(turns)]


def asked(
    question: Mapping[str, Any], formats: Sequence[str] | None = None, orders: str = "cyclic"
) -> list[dict[str, Any]]:
    """One question as items: in every format and order.

    Args: question: an item with ``id, context, question, options, roles, lang`` (context may be empty); formats: names of
        ``FORMATS`` (default: all); orders: a name of ``ORDERS``.
    Returns: copies with ``base_id`` (the question's own, which keeps together what is compared when only some questions
        are taken; else its id), ``id``, ``format``, ``option_order``, ``prompt`` and ``answers``
        (the texts that are scored, parallel to ``options``, which stay in the authors' order).
    Raises: ConfigError for an unknown or repeated format or order, or more options than letters.
    """
    names = list(FORMATS) if formats is None else [formats] if isinstance(formats, str) else list(formats)
    for name in names:
        if name not in FORMATS:
            raise unknown_name("formats", name, FORMATS)
    if not names or len(set(names)) < len(names):
        raise ConfigError("a format was named twice, or none", where=f"formats {names}", fix="name each format once")
    options = list(question["options"])
    if len(options) > len(LETTERS):
        raise ConfigError(f"{len(options)} options", where=f"item {question['id']}", fix=f"at most {len(LETTERS)}")
    found = []
    for name in names:
        form = FORMATS[name]
        for order in option_orders(len(options), orders):
            prompt, answers = _written(form, question, options, order)
            found.append(
                {
                    **question, "base_id": question.get("base_id", question["id"]),
                    "id": f"{question['id']}-{name}-{_spelled(order)}",
                    "format": name, "option_order": _spelled(order), "prompt": prompt, "answers": answers,
                }
            )  # fmt: skip
    return found


def _written(
    form: Format, question: Mapping[str, Any], options: list[str], order: Sequence[int]
) -> tuple[str, list[str]]:
    words = _WORDS[question["lang"]]
    lines = [line for line in (question["context"], question["question"]) if line]
    letter = {option: LETTERS[place] for place, option in enumerate(order)}
    if form.letters:
        lines += [f"{letter[option]}. {options[option]}" for option in order]
    elif form.lists:
        lines += [words["options"], *(f"- {options[option]}" for option in order)]
    answers = [letter[option] if form.letters else text for option, text in enumerate(options)]
    if form.chat:
        return "\n".join(lines), answers
    # The space before an answer belongs to the answer: prompt and answer are tokenised together.
    return "\n".join([*lines, words["answer"]]), [" " + answer for answer in answers]


def _spelled(order: Sequence[int]) -> str:
    return "".join(str(option) for option in order)


def answer_scores(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[list[OptionScore] | None]:
    """The scores of every item's answers, in the order of its ``options``; None for items that have a ``problem``."""
    plain = [i for i, item in enumerate(items) if not item.get("problem") and not FORMATS[item["format"]].chat]
    chat = [i for i, item in enumerate(items) if not item.get("problem") and FORMATS[item["format"]].chat]
    found: list[list[OptionScore] | None] = [None] * len(items)
    total = sum(len(items[i]["answers"]) for i in (*plain, *chat))
    before = sum(len(items[i]["answers"]) for i in plain)
    if plain:
        scores = scorer.continuations(
            [items[i]["prompt"] for i in plain], [items[i]["answers"] for i in plain],
            progress=_part(progress, 0, before, total),
        )  # fmt: skip
        for i, score in zip(plain, scores, strict=True):
            found[i] = score
    if chat:
        scores = scorer.options(
            [[{"role": "user", "content": items[i]["prompt"]}] for i in chat], [items[i]["answers"] for i in chat],
            progress=_part(progress, before, total - before, total),
        )  # fmt: skip
        for i, score in zip(chat, scores, strict=True):
            found[i] = score
    return found


def _part(
    progress: Callable[[int, int], None] | None, before: int, n: int, total: int
) -> Callable[[int, int], None] | None:
    """The progress of ``n`` of ``total`` answers; a scorer counts the sequences that it computes, which may be fewer."""
    return None if progress is None else lambda done, of: progress(before + n * done // max(of, 1), total)


def answered(benchmark: str, item: Mapping[str, Any], scores: Sequence[OptionScore] | None) -> dict[str, Any]:
    """The record of one item, ``margin_nats`` and ``correct`` still NaN.

    ``chosen_role``: the answer with the highest ``logp_first``, "tie" where two have it (a tokenizer that cannot tell them
    apart), "" where the item has a ``problem``. ``chosen_place``: where that option stood, -1 where there is none or the
    format does not list options. ``prefix_mismatch``: whether prompt and answer have other tokens apart than together.
    """
    n = len(item["options"])
    first, whole, tokens, mismatch, problem = [math.nan] * n, [math.nan] * n, [0] * n, False, str(item.get("problem", ""))
    if scores is not None:
        first, whole = [score.logp_first for score in scores], [score.logp_whole for score in scores]
        tokens, mismatch = [score.n_tokens for score in scores], any(score.prefix_mismatch for score in scores)
        problem = problem_of(scores) or (UNPARTED if any(map(math.isnan, first)) else "")
    chosen, place = "", -1
    if not problem:
        best = [option for option in range(n) if first[option] == max(first)]
        chosen = item["roles"][best[0]] if len(best) == 1 else "tie"
        if len(best) == 1 and FORMATS[item["format"]].lists:
            place = item["option_order"].index(str(best[0]))
    return {
        "benchmark": benchmark, "item_id": item["id"], "base_id": item["base_id"], "cluster": item["cluster"],
        "axis": item["axis"], "groups": "|".join(item["groups"]), "lang": item["lang"], "condition": item["condition"],
        "roles": list(item["roles"]), "logps_first": first, "logps_whole": whole, "n_tokens": tokens,
        "chosen_role": chosen, "margin_nats": math.nan, "correct": math.nan, "problem": problem,
        "format": item["format"], "option_order": item["option_order"], "prefix_mismatch": mismatch,
        "chosen_place": place,
    }  # fmt: skip


def role_logps(record: Mapping[str, Any], *, whole: bool = False) -> dict[str, float]:
    """Log-probability of each role's answer, nats: where the answers part, or of the whole answers."""
    return dict(zip(record["roles"], record["logps_whole" if whole else "logps_first"], strict=True))


def scored(records: pd.DataFrame) -> pd.DataFrame:
    """The records without a problem."""
    return records[records["problem"].fillna("") == ""]


def unscored(records: pd.DataFrame) -> dict[str, Any]:
    """``n_unscored`` questions' records that are left out, and how many by problem."""
    problems = records["problem"].fillna("")
    problems = problems[problems != ""]
    return {
        "n_unscored": len(problems),
        "problems": {str(name): int(n) for name, n in problems.value_counts().sort_index().items()},
        "n_prefix_mismatch": int(records["prefix_mismatch"].astype(bool).sum()),
    }


def over_ways(records: pd.DataFrame, metric: Callable[[pd.DataFrame], float]) -> dict[str, Any]:
    """A number in every format × order, its mean (the primary outcome) and its spread.

    Args: metric: a number of the records of one way of asking; NaN where it is undefined there.
    Returns: ``mean`` over all ways in which it is defined, ``sd`` (n − 1) and ``max_minus_min`` over them,
        ``by_format`` (means over orders), ``max_minus_min_formats``, ``by_format_and_order``, ``n_ways``,
        ``n_undefined``; ``reasons`` where the mean is NaN.
    """
    asked_in = records.groupby(["format", "option_order"], sort=True)
    ways = {f"{name}/{order}": float(metric(part)) for (name, order), part in asked_in}
    of_format: dict[str, list[float]] = {way.split("/")[0]: [] for way in ways}
    for way, value in ways.items():
        if not math.isnan(value):
            of_format[way.split("/")[0]].append(value)
    values = [value for found_in in of_format.values() for value in found_in]
    by_format = {name: mean(found_in) for name, found_in in of_format.items()}
    known = [value for value in by_format.values() if not math.isnan(value)]
    found: dict[str, Any] = {
        "mean": mean(values), "sd": _sd(values), "max_minus_min": _range(values), "by_format": by_format,
        "max_minus_min_formats": _range(known), "by_format_and_order": ways, "n_ways": len(ways),
        "n_undefined": len(ways) - len(values),
    }  # fmt: skip
    if not values:
        found["reasons"] = {"mean": "no way of asking in which it is defined"}
    return found


def position_bias(records: pd.DataFrame) -> dict[str, Any]:
    """Share of answers that stood in each place of the list, by format.

    A reader whom places do not sway chooses every one equally often over cyclic orders, whatever it prefers:
    ``max_minus_min`` is 0 then. Formats that list no options, and ties, are left out. NaN with a reason where nothing
    was listed.
    """
    found: dict[str, Any] = {}
    listed = scored(records)
    listed = listed[listed["chosen_place"] >= 0]
    for name, part in listed.groupby("format", sort=True):
        n = int(part["roles"].map(len).max())
        shares = [float((part["chosen_place"] == place).mean()) for place in range(n)]
        found[str(name)] = {"share_by_place": shares, "max_minus_min": _range(shares), "n": len(part)}
    spread = mean(one["max_minus_min"] for one in found.values())
    summary: dict[str, Any] = {"max_minus_min": spread, "by_format": found}
    if not found:
        summary["reasons"] = {"max_minus_min": "no format listed its options"}
    return summary


def mean(values: Any) -> float:
    """The mean; NaN of nothing, never 0."""
    found = [float(value) for value in values]
    return math.fsum(found) / len(found) if found else math.nan


def _sd(values: list[float]) -> float:
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else math.nan
