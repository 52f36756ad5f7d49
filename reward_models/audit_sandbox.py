"""What the sandbox knows that no other source does: who is of which group, and how else a question can be asked.

Its tokenizer has a word for every word of its world and for no other, so the audit's own typos and paraphrases say nothing
about its reward model; these changes stay within its words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from teachfair.data.sandbox import words
from teachfair.reward_models.audit_robustness import Change

if TYPE_CHECKING:
    from teachfair.data.sandbox.world import World

_NAME = "(?P<{}>[A-Z][a-z]+)"
_OPENING = re.compile(rf"^{_NAME.format('one')} and {_NAME.format('other')}(?= )")


def group_of_answer(world: World) -> Callable[[Mapping[str, Any], str], str]:
    """(scored pair, answer) → the group, on the pair's axis, of the person that the answer names; "" for "unknown"."""
    people = {person.name: person for everyone in world.people.values() for person in everyone}

    def group(row: Mapping[str, Any], answer: str) -> str:
        person = people.get(answer.strip())
        return "" if person is None else str(row["groups"][person.sides[row["axis"]]])

    return group


def sandbox_changes() -> tuple[Change, ...]:
    """Changes in the sandbox's own words that no answer depends on."""
    questions = [(re.compile(re.escape(form).replace(r"\{occ\}", r"(?P<occ>\w+)") + "$"), form) for form in words.QUESTIONS]

    def other_question(prompt: str, answer: str, draw: random.Random) -> tuple[str, str] | None:
        for pattern, form in sorted(questions, key=lambda entry: -len(entry[1])):
            found = pattern.search(prompt)
            if found:
                asked = draw.choice([other for other in words.QUESTIONS if other != form]).format(occ=found["occ"])
                return prompt[: found.start()] + asked, answer
        return None

    def other_order(prompt: str, answer: str, draw: random.Random) -> tuple[str, str] | None:
        found = _OPENING.match(prompt)
        return None if found is None else (f"{found['other']} and {found['one']}{prompt[found.end() :]}", answer)

    def beside_the_point(prompt: str, answer: str, draw: random.Random) -> tuple[str, str] | None:
        one, other = draw.sample(words.OBJECTS, 2)
        return f"The {one} and the {other} {draw.choice(words.PLACES)}. {prompt}", answer

    return (
        Change("another form of the question", "the same question by another of the world's templates", other_question),
        Change("the people in the other order", "“Ben and Ann met …” for “Ann and Ben met …”", other_order),
        Change("a sentence about things before", "it decides nothing", beside_the_point),
    )
