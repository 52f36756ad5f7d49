"""French: names that no list knows, beside exchanged words that may speak of them."""

from __future__ import annotations

from functools import cache

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.french_people import HYPHENS, FrenchText
from teachfair.data.counterfactuals.french_words import (
    ADVERBS,
    AVOIR,
    CLAUSE_STARTS,
    DETERMINER_WORDS,
    ETRE,
    LINKING,
    OTHER_SUBJECTS,
)
from teachfair.data.counterfactuals.texts import UNSURE, Left, capital, read_list, starts_sentence

REASON = UNSURE + "a name that no list knows"
OF_PRONOUNS = ("pronoun", "clitic", "reflexive")
BEFORE_PLACES = frozenset("en à au aux dans vers chez du des l' la le les sur sous contre pour par".split())
PARTNERS = frozenset("mari femme époux épouse copain copine".split()) | {
    "petit ami",
    "petite amie",
    "petit copain",
    "petite copine",
}
BEFORE_VERBS = frozenset("ne n' se s' me m' te t' y lui leur nous vous".split())
# a surname may follow these
TITLES = frozenset(
    """docteur docteure professeur professeure maître président présidente juge ministre inspecteur inspectrice commissaire
    capitaine sénateur sénatrice député députée maire avocat avocate général générale colonel lieutenant famille""".split()
)
STARTERS = frozenset(
    """il elle ils elles on je tu nous vous ce cela ça ceci qui que quoi rien personne tout tous toutes toute chacun
    chacune aucun aucune certains certaines plusieurs beaucoup oui non bonjour merci lui eux celui celle ceux celles
    quelqu'un voici voilà dieu noël pâques internet pourquoi comment combien même selon malgré pendant depuis lors
    outre ni et ou mais donc or car si sans alors puis ensuite enfin dehors dedans hier demain parfois ailleurs
    autrefois jadis bientôt tard tôt loin près heureusement malheureusement ah oh hé eh ben bref allez allô hélas
    monsieur madame""".split()
)


def unknown_names(text: FrenchText) -> list[Left]:
    """Names that stay though a pronoun, a noun or a name beside them that may mean the same person is exchanged."""
    found = []
    for place, word in enumerate(text.words):
        if word.human or word.changed or not capital(word) or len(word.text) < 2 or not names_a_person(text, place):
            continue
        if contradicted(text, place, end_of_name(text, place)):
            found.append(Left(word.start, word.end, word.text, REASON))
    return found


def end_of_name(text: FrenchText, place: int) -> int:
    """The place of the last word of the name that begins at ``place``: "Jean-Pascal", "Victor Hugo"."""
    end = place
    while end + 1 < len(text.words) and (
        text.gap(end + 1) in HYPHENS or (text.glued(end + 1) and capital(text.words[end + 1]))
    ):
        end += 1
    return end


def names_a_person(text: FrenchText, place: int) -> bool:
    """Whether an unknown word with a capital stands where a person's name would."""
    word, before = text.words[place], text.before(place)
    if (
        word.text.isupper()
        or word.key in STARTERS | DETERMINER_WORDS | ADVERBS | CLAUSE_STARTS | OTHER_SUBJECTS | forms.PREPOSITIONS
    ):
        return False
    if word.key in unisex() or text.gap(place) in HYPHENS or word.key in forms.fixed_gender() or word.key in text.fixed:
        return False
    if starts_sentence(text.text, text.words, place):
        if word.key.endswith(("ment", "ant", "é", "ée", "és", "ées", "er", "ir", "re", "oir")) or word.key in forms.nouns():
            return False
        after = text.key(end_of_name(text, place) + 1)
        return after == "et" or is_verb(after)
    if (word.key, "m") in forms.adjectives() or (word.key, "f") in forms.adjectives() or word.key in forms.peoples():
        return False
    if before in BEFORE_PLACES or (place and text.words[place - 1].kind in ("title", "name")):
        return False
    if place and text.glued(place) and capital(text.words[place - 1]):
        return False  # a surname
    if place and text.words[place - 1].key in TITLES:
        return False
    human_before = (
        bool(place) and text.words[place - 1].human and text.glued(place) and text.words[place - 1].kind not in OF_PRONOUNS
    )
    after = text.key(place + 1) if text.glued(place + 1) else ""
    return human_before or is_verb(after) or after == "et" or before == "et"


def is_verb(key: str) -> bool:
    return (
        key in ETRE | AVOIR | LINKING | BEFORE_VERBS
        or (len(key) > 2 and key.endswith(("ait", "aient", "a", "it", "ut", "ra", "rait", "èrent", "int")))
        or (
            len(key) > 3
            and key.endswith(("e", "t", "d"))
            and key not in DETERMINER_WORDS | forms.PREPOSITIONS | CLAUSE_STARTS
            and key not in ADVERBS
        )
    )


def contradicted(text: FrenchText, place: int, end: int) -> bool:
    """Whether what was exchanged near the name at ``place`` … ``end`` may speak of the person whom it names."""
    words = text.words
    before = words[place - 1] if place and text.glued(place) else None
    if (
        before is not None
        and (before.changed or before.target)
        and before.human
        and before.kind not in (*OF_PRONOUNS, "title")
    ):
        return True  # "ma collègue Jamila"
    for k, other in ((end + 1, end + 2), (place - 1, place - 2)):
        if text.key(k) == "et" and 0 <= other < len(words) and words[other].kind == "name":
            return True  # "Jamila et Paul"
    for k in range(end + 1, len(words)):
        word = words[k]
        if (
            word.kind in OF_PRONOUNS
            and word.changed
            and not any(
                w.human and w.gender in (word.gender, "?") and w.kind not in OF_PRONOUNS and w.plural == word.plural
                for w in words[:k]
            )
        ):
            return True
        if word.changed and word.key in PARTNERS and text.before(k) in ("son", "sa"):
            return True  # "Marianne … son mari"
        predicate = word.human and word.kind not in (*OF_PRONOUNS, "name") and (word.changed or word.target)
        if predicate and any(text.key(m) in ETRE | LINKING for m in range(max(end + 1, k - 4), k)) and k <= end + 6:
            return True
    return False


@cache
def unisex() -> frozenset[str]:
    return frozenset(row["name"].lower() for row in read_list("french_unisex_names"))
