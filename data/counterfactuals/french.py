"""French: group nouns, names and pronouns exchanged, and everything that agrees with them made to agree.

Without a parser the rules are: a determiner and the adjectives beside a swapped noun agree with it; a predicate agrees
with the nearest noun or pronoun to the left of its verb that is not inside a prepositional phrase; il/elle and le/la are
exchanged unless the only noun they can mean is a thing. docs/counterfactuals.md says how often that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.french_doubts import unknown_names
from teachfair.data.counterfactuals.french_predicates import Predicates
from teachfair.data.counterfactuals.texts import Change, Left, Swapped, decided, edited, key_of, like, shouted


class Rewriting(Predicates):
    """A text on its way to its counterfactual: people, pronouns, predicates, and at last determiners and elision."""

    # -- 5. determiners and elision ---------------------------------------------------------------------------------------

    def changes(self) -> list[Change]:
        made: list[Change] = []
        taken: set[int] = set()
        for place, target in sorted(self.determiners.items()):
            made += self.determiner_change(place, target, taken)
        for place, word in enumerate(self.words):
            if word.changed and place not in taken:
                if (
                    word.new.lower() in ("beau", "nouveau", "vieux", "bel", "nouvel", "vieil")
                    and self.glued(place + 1)
                    and not word.key.endswith("s")
                ):
                    following = self.words[place + 1]
                    if following.human or following.changed:
                        self.set(place, forms.before_vowel(key_of(word.new), following.now), word.kind)
                made.append(Change(word.start, word.end, word.text, word.new, word.kind))
                made += self.elision(place, taken)
        return sorted(change for change in made if change.old != change.new)

    def determiner_change(self, place: int, target: str, taken: set[int]) -> list[Change]:
        word, key = self.words[place], self.key(place)
        if place + 1 >= len(self.words):
            return []
        following = self.words[place + 1]
        sound = following.now
        if key_of(sound) in ("beau", "nouveau", "vieux"):
            beyond = self.words[place + 2].now if self.glued(place + 2) else ""
            sound = forms.before_vowel(key_of(sound), beyond) if beyond else sound
        if key in ("le", "la", "l'"):
            article = "l'" if forms.vowel(sound) else "le" if target == "m" else "la"
            before = self.key(place - 1) if self.glued(place) else ""
            if article == "le" and before in ("de", "à") and place - 1 not in taken:
                first = self.words[place - 1]
                end = following.start
                taken.update((place, place - 1))
                new = {"de": "du", "à": "au"}[before]
                gap = self.text[first.end : word.start] or " "
                old = self.text[first.start : end]
                return [
                    Change(first.start, end, old, like(first.text, new, shouted(self.words, place - 1)) + gap, "contraction")
                ]
            if article == key:
                return []
            taken.add(place)
            end = following.start if "l'" in (article, key) else word.end
            gap = "" if article == "l'" or key != "l'" else " "
            old = self.text[word.start : end]
            new = like(word.text, article, shouted(self.words, place)) + gap
            if "’" in self.text and "'" not in self.text:
                new = new.replace("'", "’")
            return [Change(word.start, end, old, new, "determiner" if key != "l'" and article != "l'" else "elision")]
        if key in ("du", "au"):
            if target == "m" and not forms.vowel(sound):
                return []
            stem = "de" if key == "du" else "à"
            new = f"{stem} l'" if forms.vowel(sound) else f"{stem} la "
            taken.add(place)
            new = like(word.text, new, shouted(self.words, place))
            if "’" in self.text and "'" not in self.text:
                new = new.replace("'", "’")
            gap = self.text[word.end : following.start]
            if new.endswith(" ") and gap != " ":
                new = new.strip() + gap
            return [Change(word.start, following.start, self.text[word.start : following.start], new, "contraction")]
        new = forms.determiner(key, target, sound)
        if not new or new == key:
            return []
        kind = "possessive" if key in ("mon", "ma", "ton", "ta", "son", "sa") else "determiner"
        taken.add(place)
        return [Change(word.start, word.end, word.text, like(word.text, new, shouted(self.words, place)), kind)]

    def elision(self, place: int, taken: set[int]) -> list[Change]:
        """de/d', que/qu', si/s' before a word that changed."""
        if not self.glued(place) or place - 1 in taken or self.words[place - 1].changed:
            return []
        word, before = self.words[place], self.words[place - 1]
        now, key = key_of(word.new), before.key
        if key in forms.FULL and key != "l'" and not forms.vowel(now):
            new = forms.FULL[key] + " "
        elif key == "s'" and now in ("elle", "elles"):
            new = "si "
        elif key == "si" and now in ("il", "ils"):
            new = "s'"
        elif (key in ("de", "que") and forms.vowel(now)) or (
            key in ("lorsque", "puisque", "quoique") and now in ("il", "elle", "ils", "elles")
        ):
            new = key[:-1] + "'"
        else:
            return []
        new = like(before.text, new, shouted(self.words, place - 1))
        if "’" in self.text and "'" not in self.text:
            new = new.replace("'", "’")
        return [Change(before.start, word.start, self.text[before.start : word.start], new, "elision")]


def swap_gender(
    text: str, *, names: bool = True, definitional: str = "text", unsure: str = "leave",
    parser: Callable[[str], Sequence[Any]] | None = None,
) -> Swapped:  # fmt: skip
    """See :func:`teachfair.data.counterfactuals.swap`."""
    rewriting = Rewriting(text, names)
    words = rewriting.words
    held = [
        Left(w.start, w.end, w.text, "definitional") for place, w in enumerate(words) if rewriting.is_definitional(place)
    ]
    if held and definitional == "text":
        return Swapped(text, [], held)
    rewriting.mark_people()
    rewriting.agree_phrases()
    rewriting.mark_pronouns()
    if parser is None:
        rewriting.agree_predicates()
    else:
        from teachfair.data.counterfactuals.parsing import agree_by_parse

        agree_by_parse(text, words, parser(text))
    changes = rewriting.changes()
    made = Swapped(edited(text, changes), changes, sorted([*held, *rewriting.left]))
    doubts = [*rewriting.doubts, *(unknown_names(rewriting) if names else [])]
    return decided(text, made, doubts, unsure)
