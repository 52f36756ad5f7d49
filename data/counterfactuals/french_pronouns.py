"""French pronouns: il/elle, lui, le/la, and what they can mean."""

from __future__ import annotations

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.french_people import FrenchText
from teachfair.data.counterfactuals.french_words import (
    ADVERBS,
    AVOIR,
    FEMININE,
    IMPERSONAL,
    IMPERSONAL_PREDICATES,
    INFINITIVES,
    MASCULINE,
    OBJECT_VERBS,
    PLURAL_VERBS,
    REACH,
    STAND_ALONE,
)
from teachfair.data.counterfactuals.texts import Word, ends_phrase, starts_sentence


class Pronouns(FrenchText):
    """What each pronoun means, and what it becomes."""

    # -- 3. pronouns ------------------------------------------------------------------------------------------------------

    def antecedent(self, place: int, gender: str, plural: bool, people_first: bool) -> str:
        """What a pronoun of this gender and number can mean, by the words before it: "person", "thing" or ""."""
        found = ""
        for k in range(place - 1, max(-1, place - REACH), -1):
            word = self.words[k]
            if (
                word.human
                and (people_first or word.kind != "pronoun")
                and word.gender in (gender, "?")
                and word.plural == plural
            ):
                return "person"
            thing = word.key in (FEMININE if gender == "f" else MASCULINE) and k not in self.owned and not plural
            if thing and not self.is_clitic(k) and self.glued(k + 1):
                found = found or "thing"
            if forms.fixed_gender().get(word.key) == gender and word.key.endswith("s") == plural:
                found = found or "thing"
            if found and not people_first:
                return found
        return found

    def mark_pronouns(self) -> None:
        for place, word in enumerate(self.words):
            key = word.key
            if key in ("elle", "elles"):
                self.mark_elle(place)
            elif key in ("il", "ils"):
                if key == "il" and self.is_impersonal(place):
                    continue
                self.mark_subject(place, "m", key == "ils")
            elif key == "lui" and self.lui_stands_alone(place):
                self.head(place, "elle", "pronoun", "m", False)
            elif key == "eux":
                self.head(place, "elles", "pronoun", "m", True)
            elif key in ("elle-même", "lui-même", "elles-mêmes", "eux-mêmes"):
                other = {
                    "elle-même": "lui-même",
                    "elles-mêmes": "eux-mêmes",
                    "lui-même": "elle-même",
                    "eux-mêmes": "elles-mêmes",
                }
                gender = "f" if key.startswith("elle") else "m"
                if self.antecedent(place, gender, "s-" in key or key.startswith("eux"), True) != "thing":
                    self.head(place, other[key], "reflexive", gender, key.endswith("s"))
            elif key in ("celle", "celui", "celles", "ceux") and self.next(place) in ("qui", "qu'", "que", "dont"):
                gender, plural = ("f" if key.startswith("celle") else "m"), key in ("celles", "ceux")
                if self.antecedent(place, gender, plural, False) != "thing":
                    made = {"celle": "celui", "celui": "celle", "celles": "ceux", "ceux": "celles"}[key]
                    self.head(place, made, "pronoun", gender, plural)
            elif key in ("le", "la") and place not in self.owned and self.is_clitic(place):
                gender = "f" if key == "la" else "m"
                found = self.antecedent(place, gender, False, False)
                if found == "person" or (not found and key == "la"):
                    self.head(place, "le" if key == "la" else "la", "clitic", gender, False)

    def mark_subject(self, place: int, gender: str, plural: bool, new: str = "") -> None:
        if self.antecedent(place, gender, plural, True) == "thing":
            return self.leave(place, "pronoun of a thing, or of a noun of fixed gender")
        if plural and gender == "m" and self.mixed_before(place):
            return self.leave(place, "a mixed group")
        made = new or {("m", False): "elle", ("m", True): "elles", ("f", False): "il", ("f", True): "ils"}[gender, plural]
        self.head(place, made, "pronoun", gender, plural)

    def mixed_before(self, place: int) -> bool:
        """Whether "ils" can mean a woman and a man named together: "Marie et Paul … ils"."""
        for k in range(max(1, place - REACH), place):
            if self.key(k) == "et":
                left, right = self.np_head(k - 1), self.first_person_after(k)
                if left and right and {left.gender, right.gender} == {"m", "f"}:
                    return True
        return False

    def first_person_after(self, place: int) -> Word | None:
        for k in range(place + 1, min(place + 5, len(self.words))):
            if not self.glued(k):
                return None
            if self.words[k].human:
                return self.words[k]
        return None

    def mark_elle(self, place: int) -> None:
        plural = self.key(place) == "elles"
        alone, before, after = ("eux" if plural else "lui"), self.before(place), self.next(place)
        end = ends_phrase(self.text, self.words, place)
        hyphen = self.gap(place).endswith(("-", "‐", "‑"))
        comma = self.gap(place + 1).strip() == "," if place + 1 < len(self.words) else False
        linked = before in ("que", "qu'", "comme", "et", "ou", "ni", "est", "c'est")
        stands = (
            before in STAND_ALONE
            or (linked and (end or after in ("et", "ou", "aussi", "seule", "seules", "qui")))
            or (before == "et" and after in PLURAL_VERBS)
            or (before in ("est", "était", "sont", "c'est") and not hyphen)
            or (after in ("aussi", "seule", "seules", "et", "ou", "qui", "non plus") and not hyphen)
            or (comma and not hyphen)
        )  # fmt: skip
        self.mark_subject(place, "f", plural, alone if stands else "")
        if stands and after in ("seule", "seules") and self.words[place].changed:
            self.set(place + 1, after.replace("seule", "seul"), "adjective")

    def lui_stands_alone(self, place: int) -> bool:
        """Whether "lui" is "him" after a preposition, or stressed: then it has a feminine, "elle". Else it has not."""
        before, after = self.before(place), self.next(place)
        if self.gap(place).endswith(("-", "‐", "‑")):
            return False
        end = ends_phrase(self.text, self.words, place)
        if before in STAND_ALONE:
            infinitive = after.endswith(("er", "ir", "oir", "dre", "tre", "ire")) and after not in (
                "hier",
                "autre",
                "notre",
                "votre",
            )
            return not infinitive
        if before in ("est", "était") and self.key(place - 2) in ("c'", "ce"):
            return True
        if before in ("que", "comme", "et", "ou", "ni") and (end or after in ("et", "ou", "aussi", "seul", "qui")):
            return True
        if before == "et" and after in PLURAL_VERBS and place > 1 and self.words[place - 2].human:
            return True
        comma = self.gap(place + 1).strip() == "," if place + 1 < len(self.words) else False
        return after in ("aussi", "seul", "qui", "non plus") or (comma and starts_sentence(self.text, self.words, place))

    def is_impersonal(self, place: int) -> bool:
        after, k = self.next(place), place + 1
        while self.key(k) in ("ne", "n'", "s'", "y", "en", "me", "te", "lui", "nous", "vous", "leur") and self.key(k) != "y":
            k += 1
        verb = self.key(k)
        if self.key(k) == "y":
            return self.key(k + 1) in AVOIR
        if self.key(k - 1) == "s'" and verb in ("agit", "agissait", "agira"):
            return True
        if verb in ("fait", "faisait") and self.key(k + 1) not in (
            "froid",
            "chaud",
            "beau",
            "nuit",
            "jour",
            "noir",
            "mauvais",
            "gris",
        ):
            return False
        if verb in IMPERSONAL or after in IMPERSONAL:
            return True
        if verb in ("semble", "arrive", "reste", "semblait", "arrivait") and self.key(k + 1) in (
            "que",
            "qu'",
            "deux",
            "trois",
            "du",
            "des",
            "peu",
        ):
            return True
        if verb in ("est", "était", "sera", "serait"):
            k += 1
            while self.key(k) in ADVERBS or (self.key(k) == "une" and self.key(k + 1) == "fois"):
                if self.key(k) == "une":
                    return True
                k += 1
            if self.key(k) in IMPERSONAL_PREDICATES:
                return self.key(k) not in ("certain", "important") or self.key(k + 1) in ("que", "qu'", "de", "d'")
        return False

    def is_clitic(self, place: int) -> bool:
        """Whether le/la at ``place`` is a pronoun before its verb, not an article."""
        before, after = self.before(place), self.next(place)
        if self.gap(place).endswith(("-", "‐", "‑")):
            return True
        if before in OBJECT_VERBS or before in ("me", "te", "nous", "vous"):
            return True
        return after in INFINITIVES
