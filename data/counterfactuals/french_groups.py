"""French, origin and religion: two groups exchanged, gender kept; articles and country prepositions made to fit."""

from __future__ import annotations

import re

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.texts import (
    Change,
    Left,
    Swapped,
    Word,
    capital,
    edited,
    key_of,
    like,
    origin_names,
    shouted,
    words_of,
)


def swap_groups(text: str, rows: tuple[dict[str, str], dict[str, str]], *, names: bool = True) -> Swapped:
    """``rows``: the two groups' rows of the list of origins or of religions."""
    people = origin_names(rows[0].get("names", ""), rows[1].get("names", "")) if names else {}
    table = _table(rows)
    words = words_of(text, [word for word in table if not word.isalpha()], forms.ELIDED)
    genders: dict[int, str] = {}
    for place, word in enumerate(words):
        if word.key in people and capital(word):
            word.new, word.kind = like(word.text, people[word.key][0], shouted(words, place)), "name"
        elif word.key in table:
            new, kind, gender = table[word.key]
            word.new = new if kind == "country" and not word.text.isupper() else like(word.text, new, shouted(words, place))
            word.kind = kind
            if gender:
                genders[place] = gender
    changes: list[Change] = []
    for place, word in enumerate(words):
        if word.changed:
            changes.append(Change(word.start, word.end, word.text, word.new, word.kind))
            if place:
                changes += _article(text, words, place, genders.get(place, ""))
    changes = sorted(change for change in changes if change.old != change.new)
    left: list[Left] = []
    return Swapped(edited(text, changes), changes, left)


def _table(rows: tuple[dict[str, str], dict[str, str]]) -> dict[str, tuple[str, str, str]]:
    """Word → (counterpart, kind, the counterpart's gender where the article may have to change)."""
    table: dict[str, tuple[str, str, str]] = {}
    for one, other in (rows, rows[::-1]):
        for gender in ("masculine", "feminine"):
            for form in (str, forms.plural_of):
                table.setdefault(form(one[gender]), (form(other[gender]), "demonym", ""))
        if "country" in one:
            table[key_of(one["country"])] = (other["country"], "country", other["article"])
        for column in ("faith", "place", "leader", "book"):
            if one.get(column):
                for form in (str, forms.plural_of):
                    gender = other[f"{column}_gender"] if form is str else ""
                    table.setdefault(key_of(form(one[column])), (form(other[column]), column, gender))
    return table


def _article(text: str, words: list[Word], place: int, gender: str) -> list[Change]:
    """The article or preposition before a word that changed its first sound, its gender or (a country) its article."""
    word, before = words[place], words[place - 1]
    gap = text[before.end : word.start]
    if gap.strip():
        return []
    vowel, key, first = forms.vowel(word.new), before.key, before
    earlier = words[place - 2] if place > 1 and not text[words[place - 2].end : before.start].strip() else None
    new = ""
    if word.kind == "country":
        new, first = _country(key, earlier, before, gender, vowel)
    elif key in ("le", "la", "l'", "du", "au"):
        gender = gender or _gender_of(word.key, key)
        new = "l'" if vowel else "le" if gender == "m" else "la"
        if key in ("du", "au"):
            new = {"le": key}.get(new, ("de " if key == "du" else "à ") + new)
        elif new == "le" and earlier is not None and earlier.key in ("de", "à"):
            first, new = earlier, {"de": "du", "à": "au"}[earlier.key]
    elif gender and key in forms.DETERMINERS:
        new = forms.determiner(key, gender, word.new)
    elif key in ("mon", "ma", "ton", "ta", "son", "sa", "ce", "cet", "cette"):
        new = forms.determiner(key, _gender_of(word.key, key), word.new)
    elif key == "de" and vowel:
        new = "d'"
    elif key in forms.FULL and not vowel:
        new = forms.FULL[key]
    elif key in ("nouveau", "vieux", "beau", "nouvel", "vieil", "bel"):
        new = forms.before_vowel(key, word.new)
    if not new:
        return []
    made = like(first.text, new, shouted(words, place - 1))
    made = made.replace("'", "’") if "’" in text and "'" not in text else made
    end = word.start
    return [Change(first.start, end, text[first.start : end], made + ("" if new.endswith("'") else gap or " "), "article")]


def _gender_of(word: str, article: str) -> str:
    if article in ("la", "une", "cette", "ma", "ta", "sa"):
        return "f"
    if article in ("le", "un", "ce", "cet", "du", "au"):
        return "m"
    return "f" if re.search(r"(enne|aine|aise|oise|ande|que|ole|ive|oue|ane)$", word) else "m"


def _country(key: str, earlier: Word | None, before: Word, article: str, vowel: bool) -> tuple[str, Word]:
    """The preposition or article that the new country takes, and the word at which the old one begins."""
    the = "l'" if vowel and article != "les" else article
    to = {"les": "aux"}.get(article, "en" if article == "la" or vowel else "au")
    of = {"les": "des"}.get(article, ("d'" if vowel else "de") if article == "la" or vowel else "du")
    if key in ("en", "au", "aux"):
        return to, before
    if key in ("de", "d'", "du", "des"):
        return of, before
    if key in ("le", "la", "l'", "les"):
        if earlier is not None and earlier.key in ("de", "à") and the in ("le", "les"):
            return {"le": {"de": "du", "à": "au"}, "les": {"de": "des", "à": "aux"}}[the][earlier.key], earlier
        return the, before
    return "", before
