"""French: group nouns, names and pronouns exchanged, and everything that agrees with them made to agree.

Without a parser the rules are: a determiner and the adjectives beside a swapped noun agree with it; a predicate agrees
with the nearest noun or pronoun to the left of its verb that is not inside a prepositional phrase; il/elle and le/la are
exchanged unless the only noun they can mean is a thing. docs/counterfactuals.md says how often that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.texts import (
    Change,
    Left,
    Swapped,
    Word,
    between,
    capital,
    edited,
    ends_phrase,
    key_of,
    like,
    name_pairs,
    read_list,
    shouted,
    starts_sentence,
    words_of,
)

OTHER = {"m": "f", "f": "m", "?": "?"}
PRONOUN_PHRASES = ("elle-même", "lui-même", "elles-mêmes", "eux-mêmes", "non plus")
ETRE = frozenset(
    """est es suis sont êtes sommes était étais étaient étions étiez sera serai seras seront serons serez serait serais seraient
    serions fut fus furent soit sois soient soyons fût été être étant""".split()
)
LINKING = frozenset(
    """semble semblent semblait semblaient sembla paraît parait paraissait paraissaient parut devient deviennent devenait devint
    deviendra deviendrait reste restent restait restaient resta restera demeure demeurait sent sentait sentit sentira trouve
    trouvait montre montrait montra dit disait croit croyait croyais devenir rester sembler sentir montrer""".split()
)
REFLEXIVE_LINKING = frozenset("sent sentait sentit sentira trouve trouvait montre montrait montra dit disait croit croyait sentir montrer".split())
PLURAL_VERBS = frozenset("sont étaient seront seraient furent soient semblent semblaient deviennent restent restaient ont avaient auront".split())
AVOIR = frozenset("ai as a avons avez ont avais avait avions aviez avaient aura aurai auras auront aurait auraient eut avoir ayant ait aient".split())
ADVERBS = frozenset(
    """très plus moins assez si trop bien aussi toujours encore déjà pas jamais plutôt tellement vraiment peu fort tout même
    parfois souvent ici là hier aujourd'hui maintenant enfin alors donc certes bientôt désormais également non ne autant
    presque rarement extrêmement""".split()
)
CLITICS = frozenset("ne n' se s' me m' te t' y en le la l' lui leur".split())
OTHER_SUBJECTS = frozenset("je j' tu on nous vous ce c' cela ça ceci".split())
CLAUSE_STARTS = frozenset(
    "que qu' si quand mais car donc or lorsque lorsqu' puisque puisqu' parce où pourquoi comment dont lequel laquelle".split()
)
DETERMINER_WORDS = frozenset(forms.DETERMINERS) | forms.ARTICLES | forms.NO_GENDER
PLURAL_DETERMINERS = frozenset(
    "les des ces mes tes ses leurs nos vos aux plusieurs quelques deux trois quatre cinq six sept huit neuf dix certains certaines quels quelles".split()
)
POSSESSIVES = frozenset("ma ta sa mes tes ses notre nos votre vos leur leurs mon ton son".split())
FEMININE = frozenset("la une cette sa ma ta quelle aucune".split())
MASCULINE = frozenset("le un ce cet du au quel aucun".split())
IMPERSONAL = frozenset(
    "y faut fallait faudra faudrait pleut pleuvait neige neigeait s'agit s'agissait vaut suffit suffisait existe existait paraît semblerait convient fait".split()
)
IMPERSONAL_PREDICATES = frozenset(
    """possible impossible vrai important nécessaire facile difficile temps clair évident probable utile inutile rare interdit
    tard tôt midi minuit une deux trois quatre cinq six sept huit neuf dix onze dommage essentiel préférable certain question hors dit""".split()
)
INFINITIVES = frozenset(
    """voir revoir prendre rendre connaître suivre entendre attendre croire comprendre surprendre convaincre rejoindre aider
    aimer appeler accompagner rencontrer remercier féliciter regarder écouter chercher trouver quitter laisser inviter
    rassurer respecter protéger défendre sauver soigner embaucher engager recruter licencier payer contacter saluer
    embrasser admirer consoler encourager conseiller critiquer juger blâmer accuser arrêter interroger soutenir recevoir
    nommer choisir punir guérir servir avertir épouser déranger oublier retrouver ramener déposer consulter""".split()
)
OBJECT_VERBS = frozenset("il elle ils elles je j' tu on nous vous ne n' qui".split())
DEPICTIVES = frozenset(
    """seul seule seuls seules heureux heureuse content contente fatigué fatiguée épuisé épuisée ravi ravie satisfait satisfaite
    déçu déçue furieux furieuse inquiet inquiète surpris surprise silencieux silencieuse fatigués fatiguées heureuses contents
    contentes ravis ravies épuisés épuisées déçus déçues satisfaits satisfaites inquiets inquiètes""".split()
)
QUANTITIES = frozenset("plupart beaucoup moitié majorité minorité peu tant trop nombre combien plus moins assez tiers quart".split())
STAND_ALONE = frozenset("avec pour chez sans de d' à selon entre contre sur sous vers envers devant derrière après avant par malgré parmi sauf excepté".split())
THINGS_TOO = {"facteur": ("de", "d'", "clé", "important", "déterminant", "limitant"), "agent": ("de", "pathogène", "chimique"),
              "conducteur": ("électrique",), "cuisinière": ("à", "électrique")}  # fmt: skip


@cache
def _lists() -> tuple[tuple[str, ...], dict[str, str], frozenset[str]]:
    """Phrases that count as one word; fixed expressions → reason; definitional words."""
    fixed = {key_of(row["term"]): row["reason"] for row in read_list("french_fixed")}
    definitional = frozenset(row["term"] for row in read_list("french_definitional"))
    every = (*forms.nouns(), *fixed, *definitional, *PRONOUN_PHRASES)
    return tuple(word for word in every if not word.isalpha()), fixed, definitional


class _Rewriting:
    """One text on its way to its counterfactual: its words, what each becomes, which determiners must agree."""

    def __init__(self, text: str, names: bool) -> None:
        phrases, self.fixed, self.definitional = _lists()
        self.text = text
        self.words = words_of(text, phrases, forms.ELIDED)
        self.people = name_pairs("fr") if names else {}
        self.left: list[Left] = []
        self.determiners: dict[int, str] = {}  # place → gender that its noun phrase will have
        self.owned: set[int] = set()  # determiners of people

    # -- where things stand ---------------------------------------------------------------------------------------

    def key(self, place: int) -> str:
        return self.words[place].key if 0 <= place < len(self.words) else ""

    def gap(self, place: int) -> str:
        """Between the word at ``place`` and the one before."""
        return between(self.text, self.words, place)

    def glued(self, place: int) -> bool:
        """Whether only white space parts the word at ``place`` from the one before."""
        return 0 < place < len(self.words) and not self.gap(place).strip()

    def next(self, place: int) -> str:
        """The key of the next word of the same phrase, "" at a mark or the end."""
        return self.key(place + 1) if self.glued(place + 1) else ""

    def before(self, place: int) -> str:
        return self.key(place - 1) if self.glued(place) else ""

    def leave(self, place: int, reason: str) -> None:
        word = self.words[place]
        self.left.append(Left(word.start, word.end, word.text, reason))

    def set(self, place: int, new: str, kind: str) -> None:
        word = self.words[place]
        word.new = like(word.text, new, kind != "title" and shouted(self.words, place))
        word.kind = kind

    def head(self, place: int, new: str, kind: str, gender: str, plural: bool) -> None:
        word = self.words[place]
        if new:
            self.set(place, new, kind)
        word.gender, word.target, word.plural, word.human = gender, OTHER[gender], plural, True

    # -- 1. people --------------------------------------------------------------------------------------------------

    def is_definitional(self, place: int) -> bool:
        key = self.key(place)
        if key in ("enceinte", "enceintes") and self.before(place) in DETERMINER_WORDS | {"d'"}:
            return False  # a loudspeaker, an enclosure
        return key in self.definitional

    def mark_people(self) -> None:
        nouns, epicenes = forms.nouns(), forms.epicenes()
        for place, word in enumerate(self.words):
            key = word.key
            if self.is_definitional(place):
                continue
            if key in self.fixed:
                self.leave(place, self.fixed[key])
            elif key in self.people and capital(word) and not (key in nouns and not capital(word)):
                self.mark_name(place)
            elif key in nouns:
                self.mark_noun(place, nouns[key])
            elif key in forms.peoples() and self.before(place) in DETERMINER_WORDS | {"d'"}:
                other, gender, plural = forms.peoples()[key]
                before = self.before(place)
                faith = key in {row["masculine"] for row in read_list("french_religions")}
                language = not faith and gender == "m" and not plural and not capital(word) and before in ("le", "l'", "du", "au", "en", "mon", "son")
                if key.endswith("s") and gender == "m" and not plural and before in PLURAL_DETERMINERS:
                    other, plural = forms.plural_of(other), True
                if not language:
                    self.head(place, other, "noun", gender, plural)
            elif key in epicenes:
                self.mark_epicene(place, epicenes[key])

    def mark_name(self, place: int) -> None:
        word = self.words[place]
        other, gender, also_word = self.people[word.key]
        before = self.before(place)
        titled = before in ("m.", "mme", "mlle", "monsieur", "madame", "docteur", "docteure", "dr", "professeur", "maître")
        followed = self.glued(place + 1) and capital(self.words[place + 1])
        if titled and not followed or (before in self.people and capital(self.words[place - 1])):
            self.leave(place, "surname")
        elif place + 1 < len(self.words) and self.gap(place + 1) in ("-", "‐", "‑"):
            self.leave(place, "compound name")
        elif before in ("saint", "sainte", "rue") or self.gap(place).endswith("-"):
            self.leave(place, "proper name")
        elif also_word and (starts_sentence(self.text, self.words, place) or before in ("à", "de")):
            self.leave(place, "also an ordinary word")
        else:
            self.head(place, other, "name", gender, False)

    def mark_noun(self, place: int, noun: forms.Noun) -> None:
        word, key = self.words[place], self.words[place].key
        before, after = self.before(place), self.next(place)
        if key in ("m.", "mm.") and not capital(word):
            return
        if after in THINGS_TOO.get(key, ()):
            return self.leave(place, "not a person here")
        if key in ("homme", "hommes", "dieu", "père", "mère") and capital(word) and not starts_sentence(self.text, self.words, place):
            if not word.text.isupper():
                return self.leave(place, "generic" if key == "homme" else "proper name")
        adjective_too = (key, noun.gender) in forms.adjectives() or key.endswith(("é", "és", "ée", "ées"))
        if adjective_too and not self.has_determiner(place):
            return  # "une femme sportive": it agrees with another noun
        if adjective_too and self.glued(place + 1) and after in forms.nouns():
            return  # "la petite patiente"
        plural, new, kind = noun.plural, noun.other, noun.kind
        many = before in PLURAL_DETERMINERS or (place > 1 and self.key(place - 2) in PLURAL_DETERMINERS and self.glued(place - 1))
        if not plural and key.endswith(("s", "x")) and noun.gender == "m" and many:
            plural, new = True, forms.plural_of(new)
        if key in ("fille", "filles") and self.is_kin(place):
            new, kind = "fils", "kinship"
        elif key in ("femme", "femmes") and (before in POSSESSIVES | {"ex"} or self.is_wife(place)):
            new, kind = ("maris" if plural else "mari"), "kinship"
        elif key in ("dame", "dames"):
            new = "messieurs" if plural else "monsieur"
        elif key in ("monsieur", "messieurs") and before in DETERMINER_WORDS | {"vieux", "jeune"}:
            new = "dames" if plural else "dame"
        self.head(place, new, kind, noun.gender, plural)

    def is_kin(self, place: int) -> bool:
        """Whether "fille" is a daughter: owned, or somebody's."""
        k = place - 1
        while self.glued(k + 1) and (self.key(k), "f") in forms.adjectives():
            k -= 1
        if self.glued(k + 1) and self.key(k) in POSSESSIVES:
            return True
        if self.glued(k + 1) and self.key(k) in ("deux", "trois", "quatre") and self.glued(k) and self.key(k - 1) in POSSESSIVES:
            return True
        after = self.next(place)
        if after in ("unique", "aînée", "cadette", "adoptive"):
            return True
        if after in ("de", "d'", "du"):
            beyond = self.key(place + 2)
            named = place + 2 < len(self.words) and capital(self.words[place + 2]) and beyond not in forms.ELIDED
            return after == "du" or named or beyond in POSSESSIVES or beyond in ("la", "l'", "mme", "m.")
        return False

    def is_wife(self, place: int) -> bool:
        """"la femme de Paul", "la femme du président": somebody's."""
        if self.before(place) not in ("la", "les") or self.next(place) not in ("de", "d'", "du"):
            return False
        beyond = self.words[place + 2] if place + 2 < len(self.words) else None
        return beyond is not None and (capital(beyond) or beyond.key in POSSESSIVES or beyond.key in forms.nouns())

    def has_determiner(self, place: int) -> bool:
        k = place - 1
        while self.glued(k + 1):
            key = self.key(k)
            if key in DETERMINER_WORDS:
                return True
            if key not in forms.BEFORE_NOUNS and not any((key, g) in forms.adjectives() for g in "mf"):
                return False
            k -= 1
        return False

    def mark_epicene(self, place: int, plural: bool) -> None:
        """"un élève" / "une élève": the determiner or an adjective tells the gender, else it is not known ("?")."""
        after = self.next(place)
        follows = after in forms.nouns() or after in self.people or any((after, g) in forms.adjectives() for g in "mf")
        if self.key(place) in ("jeune", "jeunes", "malade", "malades", "adulte", "adultes") and (follows or not self.has_determiner(place)):
            return
        if not self.has_determiner(place):
            return
        gender, k = "?", place - 1
        while self.glued(k + 1):
            key = self.key(k)
            if key in FEMININE or key in MASCULINE or key in ("certaines", "certains"):
                gender = "f" if key in FEMININE or key == "certaines" else "m"
                break
            if key in ("mon", "ton", "son") and not forms.vowel(self.words[k + 1].text):
                gender = "m"
                break
            if key in DETERMINER_WORDS:
                before = self.key(k - 1) if self.glued(k) else ""
                gender = {"toutes": "f", "tous": "m"}.get(before, gender)
                break
            gender = next((g for g in "mf" if (key, g) in forms.adjectives() and (key, OTHER[g]) not in forms.adjectives()), gender)
            k -= 1
        if gender == "?":
            k = place + 1
            while self.glued(k) and self.key(k) in ADVERBS:
                k += 1
            if self.glued(k):
                gender = next((g for g in "fm" if self.adjective_after(k, g, plural)), "?")
        self.head(place, "", "", gender, plural)

    # -- 2. their noun phrases ------------------------------------------------------------------------------------------

    def agree_phrases(self) -> None:
        for place, word in enumerate(self.words):
            if word.human and word.kind not in ("pronoun", "reflexive"):
                self.agree_left(place)
                self.agree_right(place)

    def agree_left(self, place: int) -> None:
        head, k = self.words[place], place - 1
        while self.glued(k + 1):
            key = self.key(k)
            if self.words[k].human:
                # "Madame la directrice", "le docteur Marie": another head
                break
            new = forms.adjective(key, head.gender, head.plural, productive=False) if head.gender in "mf" else ""
            if key in DETERMINER_WORDS:
                self.owned.add(k)
                if head.target in "mf":
                    self.determiners[k] = head.target
                whole = self.key(k - 1) if self.glued(k) else ""
                if whole in ("tout", "toute", "tous", "toutes") and (made := forms.adjective(whole, head.gender, None)):
                    self.set(k - 1, made, "determiner")
                if key == "des" or key in POSSESSIVES | {"les", "ces"} and whole == "de":
                    one = k - 1 if key == "des" else k - 2
                    made = {"un": "une", "une": "un", "chacun": "chacune", "chacune": "chacun"}.get(self.key(one), "")
                    if made and self.glued(k) and self.key(one).startswith(("une", "chacune")) == (head.gender == "f"):
                        self.set(one, made, "determiner")
                if key in ("deux", "trois", "quatre", "cinq", "six", "dix") and self.glued(k):
                    k -= 1
                    continue
                break
            if new:
                self.set(k, new, "adjective")
            elif key not in forms.BEFORE_NOUNS and key not in ADVERBS and not any((key, g) in forms.adjectives() for g in "mf"):
                break
            k -= 1

    def adjective_after(self, place: int, gender: str, plural: bool) -> str:
        """The other form of an adjective that stands after its noun; "" if the word is none, or may be a verb."""
        key = self.key(place)
        if key in forms.ALSO_VERBS or self.words[place].human:
            return ""
        return forms.adjective(key, gender, plural)

    def agree_right(self, place: int) -> None:
        head, k, linked = self.words[place], place + 1, False
        if head.gender == "?":
            return
        while k < len(self.words):
            comma = self.gap(k).strip() == ","
            if not self.glued(k) and not comma:
                return
            if self.key(k) in ("et", "ou", "mais") and not comma:
                k, linked = k + 1, True
                continue
            start = k
            while self.glued(k + 1) and (self.key(k) in ADVERBS | {"la", "le"} or _manner(self.key(k))) and self.is_adverb(k):
                k += 1
            if head.kind == "name" and not comma and not linked:
                return
            new = self.adjective_after(k, head.gender, head.plural)
            if not new and forms.has_one_form(self.key(k)) and not self.words[k].human:
                if self.key(start) in ("la", "le"):
                    self.set(start, "le" if head.target == "m" else "la", "determiner")
                k, linked = k + 1, comma
                continue
            if not new and self.key(k) in ("de", "d'") and k == place + 1 and self.glued(k + 1) and self.glued(k + 2):
                # "un homme d'affaires pressé": a bare noun between
                complement = self.key(k + 1)
                if complement not in DETERMINER_WORDS and not self.words[k + 1].human and self.adjective_after(k + 2, head.gender, head.plural):
                    k += 2
                    continue
            if not new:
                return
            if comma and not linked and not self.closes(k):
                return
            if self.key(start) in ("la", "le"):
                self.set(start, "le" if head.target == "m" else "la", "determiner")
            self.set(k, new, _kind(self.key(k)))
            k, linked = k + 1, False

    def is_adverb(self, place: int) -> bool:
        """An adverb before an adjective; "la plus", "le moins" included."""
        if self.key(place) in ("la", "le"):
            return self.next(place) in ("plus", "moins")
        return True

    def closes(self, place: int) -> bool:
        """Whether an adjective between commas ends its apposition: a comma, "et" or the end follows."""
        return ends_phrase(self.text, self.words, place) or self.next(place) in ("et", "ou", "mais", "de", "par", "d'")

    # -- 3. pronouns ------------------------------------------------------------------------------------------------------

    def antecedent(self, place: int, gender: str, plural: bool, people_first: bool) -> str:
        """What a pronoun of this gender and number can mean, by the words before it: "person", "thing" or ""."""
        found = ""
        for k in range(place - 1, -1, -1):
            word = self.words[k]
            if word.human and (people_first or word.kind != "pronoun") and word.gender in (gender, "?") and word.plural == plural:
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
                other = {"elle-même": "lui-même", "elles-mêmes": "eux-mêmes", "lui-même": "elle-même", "eux-mêmes": "elles-mêmes"}
                gender = "f" if key.startswith("elle") else "m"
                if self.antecedent(place, gender, "s-" in key or key.startswith("eux"), True) != "thing":
                    self.head(place, other[key], "reflexive", gender, key.endswith("s"))
            elif key in ("celle", "celui", "celles", "ceux") and self.next(place) in ("qui", "qu'", "que", "dont"):
                gender, plural = ("f" if key.startswith("celle") else "m"), key in ("celles", "ceux")
                if self.antecedent(place, gender, plural, False) != "thing":
                    other = {"celle": "celui", "celui": "celle", "celles": "ceux", "ceux": "celles"}[key]
                    self.head(place, other, "pronoun", gender, plural)
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
        for k in range(1, place):
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
        stands = (
            before in STAND_ALONE
            or (before in ("que", "qu'", "comme", "et", "ou", "ni", "est", "c'est") and (end or after in ("et", "ou", "aussi", "seule", "seules", "qui")))
            or (before == "et" and after in PLURAL_VERBS)
            or (before in ("est", "était", "sont", "c'est") and not hyphen)
            or after in ("aussi", "seule", "seules", "et", "ou", "qui", "non plus") and not hyphen
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
            infinitive = after.endswith(("er", "ir", "oir", "dre", "tre", "ire")) and after not in ("hier", "autre", "notre", "votre")
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
        if verb in ("fait", "faisait") and self.key(k + 1) not in ("froid", "chaud", "beau", "nuit", "jour", "noir", "mauvais", "gris"):
            return False
        if verb in IMPERSONAL or after in IMPERSONAL:
            return True
        if verb in ("semble", "arrive", "reste", "semblait", "arrivait") and self.key(k + 1) in ("que", "qu'", "deux", "trois", "du", "des", "peu"):
            return True
        if verb in ("est", "était", "sera", "serait"):
            k += 1
            while self.key(k) in ADVERBS or self.key(k) == "une" and self.key(k + 1) == "fois":
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

    # -- 4. predicates -----------------------------------------------------------------------------------------------------

    def agree_predicates(self) -> None:
        for place, word in enumerate(self.words):
            key = word.key
            if key in ETRE or key in LINKING:
                if key in REFLEXIVE_LINKING and self.key(place - 1) not in ("se", "s'"):
                    continue
                inverted = place + 1 < len(self.words) and self.gap(place + 1) in ("-", "‐", "‑") and self.words[place + 1].human
                subject = self.words[place + 1] if inverted else self.subject(place)
                if subject is not None:
                    self.agree_predicate(place + (2 if inverted else 1), subject)
            elif key == "air" and self.before(place) == "l'" and self.key(place - 2) in AVOIR:
                subject = self.subject(place - 2)
                if subject is not None:
                    self.agree_predicate(place + 1, subject)
            elif key in DEPICTIVES and not word.changed and place > 1 and self.glued(place) and self.key(place - 1) not in AVOIR | ETRE | LINKING:
                subject = self.subject(place - 1)
                if subject is not None and not subject.changed == "":
                    new = forms.adjective(key, subject.gender, None) if subject.gender in "mf" else ""
                    if new:
                        self.set(place, new, "adjective")
            elif key in AVOIR and self.before(place) == "l'":
                self.agree_object(place)
        self.agree_openings()

    def agree_object(self, place: int) -> None:
        """"je l'ai vue": the participle agrees with the person that l' means."""
        k = place + 1
        while self.glued(k) and self.key(k) in ADVERBS:
            k += 1
        if not self.glued(k):
            return
        for gender in "fm":
            new = forms.adjective(self.key(k), gender, False)
            if new and self.key(k) not in ("été", "fait"):
                found = self.antecedent(place, gender, False, False)
                if found == "person" or (not found and gender == "f"):
                    self.set(k, new, "participle")
                return

    def agree_openings(self) -> None:
        """"Fatiguée, elle est partie." "Née à Lyon, Marie …": an adjective that opens a sentence and its subject."""
        for place, word in enumerate(self.words):
            if word.changed or word.human or not starts_sentence(self.text, self.words, place):
                continue
            start = place
            while self.key(start) in ADVERBS and self.glued(start + 1):
                start += 1
            k = start + 1
            while k < len(self.words) and self.glued(k) and k < start + 7:
                k += 1
            if k >= len(self.words) or self.gap(k).strip() != ",":
                continue
            subject = next((w for w in self.words[k : k + 4] if w.human), None)
            if subject is None or subject.gender not in ("m", "f"):
                continue
            new = forms.adjective(self.key(start), subject.gender, subject.plural)
            if new and self.key(start) not in ("sûr", "dit", "fait", "tout"):
                self.set(start, new, _kind(self.key(start)))

    def agree_predicate(self, place: int, subject: Word) -> None:
        k, budget = place, 10
        loose = True  # whether an adjective may stand here
        while k < len(self.words) and budget:
            budget -= 1
            key, comma = self.key(k), self.gap(k).strip() == ","
            if not self.glued(k) and not comma:
                return
            if key in ("et", "ou", "mais", "ni"):
                k, loose = k + 1, True
                continue
            if not loose and not comma:
                return
            if key == "été" or key in ADVERBS or _manner(key):
                k, loose = k + 1, True
                continue
            if key in ("la", "le", "une", "un", "les") and k not in self.owned:
                after = self.next(k)
                if after in ("plus", "moins") and key in ("la", "le", "les"):
                    if key != "les" and subject.target in "mf":
                        self.determiners[k] = subject.target
                    k, loose = k + 1, True
                    continue
                new = forms.adjective(after, subject.gender, subject.plural) if subject.gender in "mf" else ""
                beyond = self.next(k + 1)
                if new and (beyond == "" or beyond in ("à", "qui", "de", "d'", "du", "des", "et", "parmi", "dans", "en")):
                    self.determiners[k] = subject.target
                    self.set(k + 1, new, "adjective")
                return
            genders = subject.gender if subject.gender in ("m", "f") else "fm"
            new = next((made for g in genders if (made := forms.adjective(key, g, subject.plural))), "")
            if self.words[k].human:
                k, loose = k + 1, False
            elif key == "rendu" and self.next(k) == "compte":
                return
            elif new:
                if not self.words[k].changed:
                    self.set(k, new, _kind(key))
                loose = _opens_another(key)
                k += 1
            elif forms.has_one_form(key):
                k, loose = k + 1, False
            elif k + 1 < len(self.words) and (self.gap(k + 1).strip() == "," or self.next(k) in ("et", "ou", "mais")):
                k, loose = k + 1, False  # an adjective with one form: "drôle et compétente"
            else:
                return

    def subject(self, place: int) -> Word | None:
        """The swapped subject of the verb at ``place``, None if it is anything else."""
        verb, k = self.key(place), place - 1
        if verb == "été":
            if self.key(k) in ADVERBS:
                k -= 1
            if self.key(k) not in AVOIR:
                return None
            verb, k = self.key(k), k - 1
        if self.gap(k + 1).strip() in ("-",) and self.words[k].human:
            return self.words[k]
        while k >= 0 and self.glued(k + 1) and (self.key(k) in CLITICS or self.key(k) in ADVERBS) and self.words[k].kind != "clitic":
            k -= 1
        while k >= 0 and self.words[k].kind == "clitic":
            k -= 1
        if verb in ("être", "étant", "devenir", "rester", "sembler", "sentir", "montrer", "ayant"):
            for m in range(k, max(-1, k - 10), -1):
                if self.key(m) in OTHER_SUBJECTS:
                    return None
                if self.words[m].kind == "pronoun":
                    return self.words[m]
                if self.words[m].human and not self.in_phrase(m):
                    return self.words[m]
            return None
        if k < 0:
            return None
        key = self.key(k)
        many = verb in PLURAL_VERBS
        if key in ("il", "elle", "ils", "elles", "lui", "eux", "celle", "celui", "celles", "ceux"):
            word = self.words[k] if self.words[k].changed else None
            return self.together(k, word) if many and word is not None and not word.plural else word
        if key in OTHER_SUBJECTS:
            return self.speaker(place, key)
        if key in ("et", "mais", "puis", "ou") and self.glued(k + 1) and verb in ETRE | AVOIR | LINKING:
            return self.first_subject(k, many)
        if key == "qui":
            found = self.np_head(k - 1, relative=True)
            return found
        found = self.np_head(k)
        if found is not None and many and not found.plural:
            return self.together(self.words.index(found), found)
        return found

    def first_subject(self, place: int, plural: bool) -> Word | None:
        """The subject that a second verb shares: "elle est tombée et s'est blessée"."""
        start = place
        while start > 0 and not any(mark in self.gap(start) for mark in ".!?;:…\n"):
            start -= 1
        for k in range(start, place):
            if self.key(k) in OTHER_SUBJECTS:
                return None
            if self.words[k].human and not self.in_phrase(k) and self.words[k].kind != "clitic":
                return self.words[k] if self.words[k].plural == plural else None
        return None

    def speaker(self, place: int, key: str) -> None:
        """"je suis contente": the text does not say who speaks. Counted, not changed."""
        k = place + 1
        while self.glued(k) and self.key(k) in ADVERBS:
            k += 1
        if key in ("je", "j'", "tu", "nous", "vous") and self.glued(k) and forms.adjective(self.key(k), "f", None):
            self.leave(k, "speaker or addressee")

    def together(self, place: int, last: Word) -> Word | None:
        """The subject of a plural verb whose last part is ``last``: "Marie et Anne sont"."""
        start = self.phrase_start(place)
        if self.key(start - 1) not in ("et", "ou", "ni"):
            return None
        first = self.np_head(start - 2)
        if first is None or first.gender != last.gender:
            return None
        return Word(last.start, last.end, last.text, last.key, gender=last.gender, target=last.target, plural=True, human=True)

    def phrase_start(self, place: int) -> int:
        """The place of the determiner of the noun phrase whose head is at ``place`` (itself if it has none)."""
        k = place
        while self.glued(k) and k > 0:
            key = self.key(k - 1)
            if key in DETERMINER_WORDS:
                return k - 1
            if key not in forms.BEFORE_NOUNS and not any((key, g) in forms.adjectives() for g in "mf"):
                return k
            k -= 1
        return k

    def in_phrase(self, place: int) -> bool:
        """Whether the noun at ``place`` stands in a prepositional phrase."""
        start = self.phrase_start(place)
        of = start if self.key(start) == "des" else start - 1
        if self.key(of) in ("des", "de", "d'") and self.key(of - 1) in QUANTITIES:
            return False
        if self.key(start) in ("du", "au", "aux"):
            return True
        if self.key(start) == "des":
            return start > 0 and self.glued(start) and self.key(start - 1) not in ("et", "ou", "que", "mais")
        return self.glued(start) and self.key(start - 1) in forms.PREPOSITIONS

    def np_head(self, place: int, relative: bool = False) -> Word | None:
        """The person who heads the noun phrase that ends at ``place``; None if a thing does, or nothing is found."""
        k = place
        while k >= 0 and k > place - 14:
            if k < place and any(mark in self.gap(k + 1) for mark in ".!?;:…\n") and not self.key(k).endswith("."):
                return None
            word = self.words[k]
            if word.human and word.kind not in ("clitic",):
                if word.kind == "pronoun":
                    return word if k == place else None
                if relative or not self.in_phrase(k):
                    return word
                k = self.phrase_start(k) - (0 if self.key(self.phrase_start(k)) in ("du", "au", "aux", "des") else 1) - 1
                continue
            if word.key in ("et", "mais", "ou") and self.words[k + 1 : k + 2] and self.words[k + 1].kind in ("adjective", "participle"):
                k -= 1
                continue
            if word.key in CLAUSE_STARTS or word.key in OTHER_SUBJECTS:
                return None
            if word.key in ADVERBS or word.kind in ("adjective", "participle") or forms.has_one_form(word.key):
                k -= 1
                continue
            if word.key in ("la", "le") and self.next(k) in ("plus", "moins"):
                k -= 1
                continue
            start = self.phrase_start(k)
            if start != k and word.key not in DETERMINER_WORDS:
                if self.in_phrase(k):
                    k = start - (0 if self.key(start) in ("du", "au", "aux", "des") else 1) - 1
                    continue
                return self.relative_owner(start)
            k -= 1
        return None

    def relative_owner(self, place: int) -> Word | None:
        """"la femme qui a vendu la voiture est …": the thing at ``place`` belongs to the relative clause."""
        for k in range(place - 1, max(0, place - 6), -1):
            if self.key(k) in ("que", "qu'") or not self.glued(k + 1):
                return None
            if self.key(k) == "qui" and k < place - 1:
                return self.np_head(k - 1, relative=True)
        return None

    # -- 5. determiners and elision ---------------------------------------------------------------------------------------

    def changes(self) -> list[Change]:
        made: list[Change] = []
        taken: set[int] = set()
        for place, target in sorted(self.determiners.items()):
            made += self.determiner_change(place, target, taken)
        for place, word in enumerate(self.words):
            if word.changed and place not in taken:
                if word.new.lower() in ("beau", "nouveau", "vieux", "bel", "nouvel", "vieil") and self.glued(place + 1):
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
                return [Change(first.start, end, old, like(first.text, new, shouted(self.words, place - 1)) + gap, "contraction")]
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
            first = "de" if key == "du" else "à"
            new = f"{first} l'" if forms.vowel(sound) else f"{first} la "
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
        elif key in ("de", "que") and forms.vowel(now):
            new = key[:-1] + "'"
        elif key in ("lorsque", "puisque", "quoique") and now in ("il", "elle", "ils", "elles"):
            new = key[:-1] + "'"
        else:
            return []
        new = like(before.text, new, shouted(self.words, place - 1))
        if "’" in self.text and "'" not in self.text:
            new = new.replace("'", "’")
        return [Change(before.start, word.start, self.text[before.start : word.start], new, "elision")]


def _manner(key: str) -> bool:
    """Whether the word looks like an adverb of manner ("monstrueusement")."""
    return key.endswith("ment") and len(key) > 6


def _kind(key: str) -> str:
    return "participle" if key.endswith(("é", "ée", "és", "ées", "ie", "ue", "is", "ise", "ies", "ues")) else "adjective"


def _opens_another(key: str) -> bool:
    """A participle after which a predicate may follow: "est devenue célèbre", "est restée seule"."""
    if key in ("tous", "toutes", "tout", "toute"):
        return True
    stems = ("tombé", "devenu", "resté", "demeuré", "arrivé", "rentré", "reparti", "parti", "né", "mort", "revenu", "été", "jugé", "considéré", "montré", "senti", "trouvé")
    return key.removesuffix("s").removesuffix("e") in stems


def swap_gender(
    text: str, *, names: bool = True, definitional: str = "text", parser: Callable[[str], Sequence[Any]] | None = None
) -> Swapped:
    """See :func:`teachfair.data.counterfactuals.swap`."""
    rewriting = _Rewriting(text, names)
    words = rewriting.words
    held = [Left(w.start, w.end, w.text, "definitional") for place, w in enumerate(words) if rewriting.is_definitional(place)]
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
    return Swapped(edited(text, changes), changes, sorted([*held, *rewriting.left]))
