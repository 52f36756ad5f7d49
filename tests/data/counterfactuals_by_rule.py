"""The rows "by rule" of the known-answer sets: templates filled with forms spelled out here by hand.

``python tests/data/counterfactuals_by_rule.py`` writes them into counterfactuals_{en,fr}.tsv, after the rows by hand.
Nothing here reads the word lists of the package: both sides of every row are written out.
"""

from __future__ import annotations

import csv
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = ("part", "made", "class", "groups", "text", "expected")

EN_PEOPLE = [
    ("a man", "a woman"), ("a boy", "a girl"), ("an actor", "an actress"), ("a waiter", "a waitress"),
    ("a hero", "a heroine"),
    ("an heir", "an heiress"), ("a policeman", "a policewoman"), ("a chairman", "a chairwoman"),
    ("a steward", "a stewardess"),
    ("a landlord", "a landlady"), ("an uncle", "an aunt"), ("a nephew", "a niece"), ("a husband", "a wife"),
    ("a widower", "a widow"), ("a grandson", "a granddaughter"), ("a king", "a queen"), ("an emperor", "an empress"),
    ("a monk", "a nun"), ("a fisherman", "a fisherwoman"), ("a stepfather", "a stepmother"),
]  # fmt: skip
EN_NAMES = [
    ("John", "Mary"), ("Robert", "Susan"), ("Andrew", "Emily"), ("Kevin", "Michelle"), ("Peter", "Anna"), ("Ben", "Ann"),
    ("Adam", "Eve"), ("Tom", "Kate"), ("Omar", "Leila"), ("Raj", "Priya"),
]  # fmt: skip
EN_PERSON_TEMPLATES = [
    ("pronoun", "{A} told me that {s} was ready and that I should follow {o}."),
    ("possessive", "{A} lost {p} keys; the bag was {h} too."),
    ("reflexive", "{A} blamed {r}."),
]
EN_NAME_TEMPLATES = [
    ("name", "{N} forgot {p} coat."),
    ("name", "I met {N} and thanked {o}."),
    ("possessive", "{N}'s boss gave {o} a rise."),
    ("name", "{N}’s sister."),
]

# le X, la Y, without article, adjective pairs: spelled out
FR_PEOPLE = [
    ("infirmier", "infirmière", "l'", "l'"), ("directeur", "directrice", "le ", "la "),
    ("chanteur", "chanteuse", "le ", "la "),
    ("gardien", "gardienne", "le ", "la "), ("boulanger", "boulangère", "le ", "la "), ("acteur", "actrice", "l'", "l'"),
    ("avocat", "avocate", "l'", "l'"), ("étudiant", "étudiante", "l'", "l'"), ("voisin", "voisine", "le ", "la "),
    ("héros", "héroïne", "le ", "l'"), ("neveu", "nièce", "le ", "la "), ("champion", "championne", "le ", "la "),
    ("roi", "reine", "le ", "la "), ("employé", "employée", "l'", "l'"),
]  # fmt: skip
FR_ADJECTIVES = [
    ("content", "contente"), ("sérieux", "sérieuse"), ("actif", "active"), ("fier", "fière"), ("gentil", "gentille"),
    ("parisien", "parisienne"), ("doux", "douce"), ("cruel", "cruelle"), ("discret", "discrète"), ("fatigué", "fatiguée"),
]  # fmt: skip
FR_PARTICIPLES = [("arrivé", "arrivée"), ("venu", "venue"), ("parti", "partie"), ("né", "née"), ("mort", "morte")]


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


def english() -> list[tuple[str, str, str]]:
    """(class, male text, female text)."""
    made = []
    words = (
        {"s": "he", "o": "him", "p": "his", "h": "his", "r": "himself"},
        {"s": "she", "o": "her", "p": "her", "h": "hers", "r": "herself"},
    )
    for kind, template in EN_PERSON_TEMPLATES:
        for male, female in EN_PEOPLE:
            made.append((kind, template.format(A=_start(male), **words[0]), template.format(A=_start(female), **words[1])))
    for kind, template in EN_NAME_TEMPLATES:
        for male, female in EN_NAMES:
            pair = [template.format(N=n, **w) for n, w in zip((male, female), words, strict=True)]
            pair = [t.replace("sister", x) for t, x in zip(pair, ("brother", "sister"), strict=True)]
            made.append((kind, pair[0], pair[1]))
    return made


def french() -> list[tuple[str, str, str]]:
    made = []
    of = {"le ": "du ", "la ": "de la ", "l'": "de l'"}
    to = {"le ": "au ", "la ": "à la ", "l'": "à l'"}
    this = {"le ": "ce ", "la ": "cette "}
    for number, (male, female, the_m, the_f) in enumerate(FR_PEOPLE):
        adjective = FR_ADJECTIVES[number % len(FR_ADJECTIVES)]
        participle = FR_PARTICIPLES[number % len(FR_PARTICIPLES)]
        forms = ((male, the_m, adjective[0], participle[0], "un "), (female, the_f, adjective[1], participle[1], "une "))
        my = "mon" if the_f == "l'" else "ma"
        this_m = "cet " if the_m == "l'" else this[the_m]
        pairs = {
            "agreement": [f"{_start(the)}{noun} est très {adj}." for noun, the, adj, _, _ in forms],
            "contraction": [f"Je parle {to[the]}{noun} {of[the]}{noun}." for noun, the, _, _, _ in forms],
            "participle": [f"{_start(a)}{noun} est {part} hier." for noun, _, _, part, a in forms],
            "determiner": [f"Je connais {d}{n}." for n, d in ((male, this_m), (female, "cette "))],
            "elision": [f"On dit que {the}{noun} rit." for noun, the, _, _, _ in forms],
            "pronoun": [f"{_start(the_m)}{male} dit qu'il viendra.", f"{_start(the_f)}{female} dit qu'elle viendra."],
            "adjective": [f"C'est {a}{noun} {adj}." for noun, _, adj, _, a in forms],
            "possessive": [f"Voici mon {male} et sa voiture.", f"Voici {my} {female} et sa voiture."],
        }  # fmt: skip
        made += [(kind, pair[0], pair[1]) for kind, pair in pairs.items()]
    return made


def rows(lang: str) -> list[dict[str, str]]:
    """The rows by rule, from male to female and back in turn."""
    made = english() if lang == "en" else french()
    return [
        {
            "part": "in-sample",
            "made": "rule",
            "class": kind,
            "groups": "",
            **dict(zip(("text", "expected"), pair, strict=True)),
        }
        for number, (kind, male, female) in enumerate(made)
        for pair in [(male, female) if number % 2 == 0 else (female, male)]
    ]


def main() -> None:
    for lang in ("en", "fr"):
        path = HERE / f"counterfactuals_{lang}.tsv"
        with path.open(encoding="utf-8", newline="") as file:
            by_hand = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["made"] == "hand"]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n", quotechar=None
            )
            writer.writeheader()
            writer.writerows([*by_hand, *rows(lang)])


if __name__ == "__main__":
    main()
