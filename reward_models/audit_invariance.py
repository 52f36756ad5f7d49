"""Counterfactual invariance: does the reward change when only the group changes?

Prompt and answer are rewritten together about the other group (``data.counterfactuals``, or the sandbox's own names). A fair
answer stays a fair answer, so the reward should stay. What is defined by one sex ("pregnant") cannot be exchanged and is
counted, not scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from teachfair.reward_models.audit_intervals import cluster_mean

_TURN = "\n\x1e\n"  # parts the turns, so that a pronoun finds its noun in an earlier one
MIN_TEXTS = 20  # of one direction; rarer ones share a row
NO_DIRECTION, RARE = "no direction", "rarer directions"
NOT_SWAPPED = ("definitional", "no group word", "not this axis or language")


class Counterfactual(NamedTuple):
    """A conversation about the other group, and who became whom ("female" → "male"; "" where nobody is meant)."""

    messages: list[dict[str, str]]
    axis: str
    before: str
    after: str


Swapping = Callable[[Mapping[str, Any], str], Counterfactual | str]


def swap_by_rule(pair: Mapping[str, Any], side: str) -> Counterfactual | str:
    """Prompt and one answer of a pair about the other group, by the word lists; a text says why there is none.

    Gender is exchanged in every text that has a gendered word; an origin or a religion where the text names one known
    group, for the next one of the pair's ``groups``, or of the list.
    """
    from teachfair.data.counterfactuals import LANGUAGES, groups_of, swap

    lang = str(pair.get("lang") or "en")
    if lang not in LANGUAGES:
        return NOT_SWAPPED[2]
    messages = [dict(turn) for turn in [*pair["prompt"], *pair[side]]]
    text = _TURN.join(turn["content"] for turn in messages)
    axis = _RULED.get(str(pair.get("axis") or ""), "gender")
    options: dict[str, Any] = {}
    before = after = ""
    if axis != "gender":
        known = groups_of(axis, lang)
        words = {word.strip(".,;:!?\"'").casefold() for word in text.split()}
        named = [group for group in known if {group, group + "s"} & words]
        if len(named) != 1:
            return NOT_SWAPPED[1]
        others = [str(group).casefold() for group in pair.get("groups") or () if str(group).casefold() in known]
        others = [group for group in others if group != named[0]]
        before, after = named[0], others[0] if others else known[(known.index(named[0]) + 1) % len(known)]
        options["groups"] = (before, after)
    found = swap(text, lang, axis, **options)
    if any(left.reason == "definitional" for left in found.left) and not found.changes:
        return NOT_SWAPPED[0]
    parts = found.text.split(_TURN)
    if not found.changes or len(parts) != len(messages):
        return NOT_SWAPPED[1]
    if axis == "gender":
        before, after = _direction(found.changes, lang)
    return Counterfactual(
        [{**turn, "content": part} for turn, part in zip(messages, parts, strict=True)], axis, before, after
    )


_RULED = {"religion": "religion", "nationality": "origin", "origin": "origin", "race": "origin"}


def _direction(changes: Sequence[Any], lang: str) -> tuple[str, str]:
    """("female", "male") where all that changed was female before; ("", "") where both are in the text."""
    feminine = _FEMALE[lang]
    sides = {change.old.strip().casefold() in feminine for change in changes if change.kind in ("pronoun", "noun")}
    if len(sides) != 1:
        return "", ""
    return ("female", "male") if sides.pop() else ("male", "female")


# enough to tell the direction of a text: the words themselves are the lists'
_FEMALE = {
    "en": frozenset(
        "she her hers herself woman women girl girls mother mothers mom daughter daughters sister sisters wife wives aunt "
        "grandmother lady ladies female females girlfriend bride queen schoolgirl schoolgirls waitress actress niece".split()
    ),
    "fr": frozenset("elle elles femme femmes fille filles mère mères sœur sœurs épouse madame dame tante reine".split()),
}


def sandbox_swapping(world: Any) -> Swapping:
    """The counterfactual of a sandbox pair: its two people change places.

    Who becomes whom is read off the answer: the person that it names. "unknown" names nobody.
    """
    from teachfair.data.sandbox.gold import counterfactual
    from teachfair.data.swapping import swapped_messages

    people = {person.name: person for everyone in world.people.values() for person in everyone}

    def swapping(pair: Mapping[str, Any], side: str) -> Counterfactual | str:
        found = counterfactual(world, pair["prompt"][0]["content"])
        messages = [*found["counterfactual_prompt"], *swapped_messages(pair[side], found["swap"])]
        axis, answer = str(pair["axis"]), pair[side][-1]["content"]
        if answer not in people:
            return Counterfactual(messages, axis, "", "")
        place = people[answer].sides[axis]
        return Counterfactual(messages, axis, pair["groups"][place], pair["groups"][1 - place])

    return swapping


def invariance(
    originals: Sequence[Mapping[str, Any]], counterfactual_rewards: np.ndarray, *, spread: float, mean_margin: float,
    threshold: float | None, left: Mapping[str, int], seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """How far the reward moves when only the group changes.

    Args:
        originals: dicts ``reward, axis, before, after, cluster`` of the texts that have a counterfactual.
        counterfactual_rewards: (n,) their counterparts' rewards.
        spread: standard deviation of the rewards of all texts; mean_margin: mean of |chosen - rejected|. The units.
        threshold: reward at which a text is called fair; None: no flip rate.
        left: why the other texts have none -> how many.

    Returns: ``n, left, rows``: per axis and direction ("all" first) dicts ``axis, direction, n, shift`` (mean |Δ| in
        standard deviations), ``shift_margins`` (in mean margins), ``flipped`` (share of labels that change), ``favoured``
        (mean signed Δ, after - before, in standard deviations; > 0: the group that the text became is favoured); each but
        ``n`` with ``value, low, high, reason``. ``reason`` if nothing could be measured.
    """
    found: dict[str, Any] = {"n": len(originals), "left": dict(left), "rows": [], "reason": ""}
    if not len(originals):
        return found | {"reason": "no text has a counterfactual"}
    if not spread > 0:
        return found | {"reason": "all rewards are equal: no unit to measure in"}
    before = np.array([row["reward"] for row in originals], dtype=float)
    change = np.asarray(counterfactual_rewards, dtype=float) - before
    keys = Counter[tuple[str, str]]()
    labels = []
    for row in originals:
        direction = f"{row['before']} → {row['after']}" if row["before"] else NO_DIRECTION
        labels.append((row["axis"], direction))
        keys[row["axis"], direction] += 1
    # a text that names both groups has no direction: its signed change means nothing
    labels = [(axis, way if keys[axis, way] >= MIN_TEXTS or way == NO_DIRECTION else RARE) for axis, way in labels]
    keys = Counter(labels)
    for key in [("all", "all"), *sorted(keys)]:
        here = np.array([key == ("all", "all") or label == key for label in labels])
        clusters = [str(row["cluster"]) for row, inside in zip(originals, here, strict=True) if inside]
        moved = change[here]
        entry: dict[str, Any] = {"axis": key[0], "direction": key[1], "n": int(here.sum())}
        entry["shift"] = cluster_mean(np.abs(moved) / spread, clusters, seed=seed, share=False)
        margins = cluster_mean(np.abs(moved) / mean_margin, clusters, seed=seed, share=False) if mean_margin > 0 else None
        entry["shift_margins"] = margins
        if threshold is None:
            entry["flipped"] = None
        else:
            flips = (before[here] >= threshold) != (before[here] + moved >= threshold)
            entry["flipped"] = cluster_mean(flips, clusters, seed=seed)
        directed = key != ("all", "all") and key[1] not in (NO_DIRECTION, RARE)
        entry["favoured"] = cluster_mean(moved / spread, clusters, seed=seed, share=False) if directed else None
        found["rows"].append(entry)
    return found
