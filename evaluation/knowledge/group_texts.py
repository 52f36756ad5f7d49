"""Texts in which a word names a person of a known group: of the sandbox, and built in for any other model (EN, FR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from teachfair.data.counterfactuals.texts import read_list
from teachfair.data.sandbox import words
from teachfair.data.sandbox.world import AXES
from teachfair.errors import unknown_name
from teachfair.evaluation.knowledge.hidden_states import GroupText
from teachfair.models.chat import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from teachfair.data.sandbox.world import World

# Nothing in them tells a group, and the word stands last: a causal model has read only what comes before it.
TEMPLATES = {
    "en": ("{x}", "Yesterday I met {x}", "This is {x}", "Everyone in town knows {x}", "The letter was written by {x}"),
    "fr": ("{x}", "Hier, j'ai vu {x}", "Voici {x}", "Toute la ville connaît {x}", "La lettre vient de {x}"),
}
# Words that are of one group by their meaning. English only: a French article or possessive before them tells the group.
KINSHIP = (
    ("mother", "father"), ("sister", "brother"), ("daughter", "son"), ("grandmother", "grandfather"), ("aunt", "uncle"),
    ("wife", "husband"), ("niece", "nephew"), ("mom", "dad"), ("grandma", "grandpa"), ("girlfriend", "boyfriend"),
)  # fmt: skip
SIDES = ("woman", "man")


def sandbox_texts(world: World, tokenizer: PreTrainedTokenizerBase) -> list[GroupText]:
    """Every name of the world in five contexts of its definitional and decision questions, as conversations.

    Group words and answers come after the name there, so that no text holds its label.
    """
    templates = [*words.DEFINITIONS, *words.DECISIONS, words.REFERENCES["gender"]]
    occupation = world.occupations["test"][0].name
    slots = {"first": SIDES[0], "second": SIDES[1], "occ": occupation, "grade": "high"}
    found = []
    for people in world.people.values():
        for person in people:
            groups = {axis: AXES[axis][side] for axis, side in person.sides.items()}
            for number, template in enumerate(templates):
                prompt = template.format(x=person.name, **slots)
                text = render(tokenizer, [{"role": "user", "content": prompt}], generation_prompt=True)
                start = text.rindex(f" {person.name}") + 1
                found.append(GroupText(
                    text, start, start + len(person.name), person.name, groups, str(number), "en", rendered=True
                ))  # fmt: skip
    return found


def built_in_texts(langs: Sequence[str] = ("en", "fr"), *, names: int = 40) -> list[GroupText]:
    """Given names (``names`` of each gender and language) and English kinship words, axis ``gender``; plain texts.

    Names: the project's own lists, most common first; what is also an ordinary word is left out. A language's names say
    how that language's speakers mostly give them, not what a person is.
    """
    found = []
    for lang in langs:
        if lang not in TEMPLATES:
            raise unknown_name("lang", lang, TEMPLATES)
        rows = [row for row in read_list("english_names" if lang == "en" else "french_names") if row["word"] != "word"]
        people = [(row[key], side) for row in rows[:names] for key, side in (("female", SIDES[0]), ("male", SIDES[1]))]
        if lang == "en":
            people += [(f"my {word}", SIDES[i]) for pair in KINSHIP for i, word in enumerate(pair)]
        for name, side in people:
            word = name.removeprefix("my ")
            for number, template in enumerate(TEMPLATES[lang]):
                text = template.format(x=name)
                text = text[0].upper() + text[1:]
                start = len(text) - len(word)
                found.append(GroupText(
                    text, start, len(text), f"{lang}:{word}", {"gender": side}, f"{lang}/{number}", lang
                ))  # fmt: skip
    return found
