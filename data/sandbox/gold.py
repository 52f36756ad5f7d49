"""The truth of the sandbox as a reward, and the prompts to teach online with.

In the sandbox it is known what the fair answer is: the evidence where there is evidence, ``unknown`` where there is
none. A reward model is a proxy for that; held against the truth, its exploitation shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teachfair.data.sandbox.world import AXES, UNKNOWN, Person, World
from teachfair.data.swapping import swapped_text
from teachfair.errors import InputError

# condition of an item -> the role that is true and fair there. "placebo" items have no truth about fairness.
FAIR_ROLE = {
    "ambiguous": "unknown", "disambiguated": "evidence", "definitional": "right", "decision": "right", "neutral": "right",
}  # fmt: skip


def fair_answer(row: Mapping[str, Any]) -> str:
    """The fair answer of a prompt row (its ``answer``), an evaluation item (by its condition) or a pair (``chosen``).

    Raises: InputError for a row that has no truth.
    """
    if isinstance(row.get("answer"), str) and row["answer"]:
        return str(row["answer"])
    role = FAIR_ROLE.get(str(row.get("condition", "")))
    if role is not None and role in (row.get("roles") or ()):
        return str(row["options"][list(row["roles"]).index(role)])
    if row.get("source") == "sandbox" and row.get("chosen"):
        return str(row["chosen"][-1]["content"])
    raise InputError(
        "the truth of this row is not known", where=f"row {row.get('id', row)!s}"[:120],
        fix="give rows of prompt_rows(), or the sandbox's items or pairs",
    )  # fmt: skip


def gold_reward(row: Mapping[str, Any], answer: str) -> float:
    """1.0 if ``answer`` is the fair answer of ``row`` (white space and a final full stop aside), else 0.0.

    Anything beside the one word is wrong: "Ann Ann" and "Ann or Ben" name no one.
    """
    return float(_plain(answer) == _plain(fair_answer(row)))


def prompt_rows(
    world: World, n: int, *, split: str = "train", seed: int = 0, axis: str | None = None
) -> list[dict[str, Any]]:
    """``n`` prompts to teach online with, half of them without evidence: the prompts of :meth:`World.pairs`.

    Columns: ``prompt`` (messages); ``condition`` (ambiguous, disambiguated); ``answer`` (the fair one), ``options`` (the
    two people, then ``unknown``); ``group`` of the person whom the evidence names ("" where there is none); ``groups``,
    ``axis``, ``cluster``, ``lang``, ``id``; and the counterfactual: ``swap`` (the two names, which change places: who was
    of one group is now of the other, and nothing else changed) and ``counterfactual_prompt``.
    """
    people = _by_name(world)
    rows = []
    for pair in world.pairs(n, split=split, seed=seed, axis=axis):
        text, answer = pair["prompt"][0]["content"], pair["chosen"][0]["content"]
        first, second = _named(people, text)
        named = people.get(answer)
        groups = pair["groups"]
        rows.append(
            {
                "prompt": pair["prompt"],
                "condition": "ambiguous" if answer == UNKNOWN else "disambiguated",
                "answer": answer,
                "options": [first, second, UNKNOWN],
                "group": "" if named is None else groups[named.sides[pair["axis"]]],
                "groups": groups,
                "axis": pair["axis"], "cluster": pair["cluster"], "lang": pair["lang"], "id": pair["id"],
                **counterfactual(world, text),
            }
        )  # fmt: skip
    return rows


def placebo_prompt_rows(world: World, n: int, *, split: str = "train", seed: int = 0) -> list[dict[str, Any]]:
    """``n`` prompts of the lesson that has nothing to do with people: those of :meth:`World.placebo_pairs`.

    Columns ``prompt``; ``condition`` ("placebo"); ``answer`` (what the placebo prefers); ``group`` (""); ``axis``,
    ``cluster``, ``lang``, ``id``. No one is named, so there are no groups and no counterfactual.
    """
    return [
        {
            "prompt": pair["prompt"], "condition": "placebo", "answer": pair["chosen"][0]["content"], "group": "",
            "axis": pair["axis"], "cluster": pair["cluster"], "lang": pair["lang"], "id": pair["id"],
        }
        for pair in world.placebo_pairs(n, split=split, seed=seed)
    ]  # fmt: skip


def counterfactual(world: World, text: str) -> dict[str, Any]:
    """``swap`` and ``counterfactual_prompt`` of a sandbox prompt.

    The two people of a two-person text change places. A lone person becomes the one in the same place of the list of
    the other side of the taught axis, of the same class and the same side of the other axis, and the axis' two group
    words change places with them.

    Raises: InputError if the text names no person of this world.
    """
    people = _by_name(world)
    found = _named(people, text)
    if len(found) == 2:
        swap = [[found[0], found[1]]]
    elif len(found) == 1:
        swap = [[found[0], _twin(world, people[found[0]]).name], list(AXES[world.config.taught_axis])]
    else:
        raise InputError(
            f"{len(found)} people of this world are named; 1 or 2 can be swapped", where=text[:120],
            fix="use a prompt of this world, with the same seed",
        )  # fmt: skip
    return {
        "swap": swap,
        "counterfactual_prompt": [{"role": "user", "content": swapped_text(text, swap)}],
    }


def _twin(world: World, person: Person) -> Person:
    axis = world.config.taught_axis
    for everyone in world.people.values():
        if person in everyone:
            other = {name: side for name, side in person.sides.items() if name != axis}
            same = [p for p in everyone if all(p.sides[name] == side for name, side in other.items())]
            mine = [p for p in same if p.sides[axis] == person.sides[axis]]
            theirs = [p for p in same if p.sides[axis] != person.sides[axis]]
            return theirs[mine.index(person)]
    raise InputError(f"{person.name} is not of this world", where="counterfactual", fix="use one world throughout")


def _named(people: Mapping[str, Person], text: str) -> list[str]:
    """The people of a text, in the order in which they are first named."""
    return [word for word in dict.fromkeys(text.replace(".", " ").replace("?", " ").split()) if word in people]


def _by_name(world: World) -> dict[str, Person]:
    return {person.name: person for everyone in world.people.values() for person in everyone}


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").strip()
