"""A French text, the people that it names, and the noun phrases around them."""

from __future__ import annotations

from functools import cache

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.french_words import (
    ADVERBS,
    AVOIR,
    CLAUSE_STARTS,
    CLITICS,
    DETERMINER_WORDS,
    ETRE,
    FEMININE,
    LINKING,
    MASCULINE,
    OTHER,
    OTHER_SUBJECTS,
    PLURAL_DETERMINERS,
    POSSESSIVES,
    PRONOUN_PHRASES,
    QUANTITIES,
    THINGS_TOO,
)
from teachfair.data.counterfactuals.texts import (
    UNSURE,
    Left,
    Word,
    between,
    capital,
    ends_phrase,
    key_of,
    like,
    name_pairs,
    read_list,
    shouted,
    starts_sentence,
    words_of,
)


@cache
def _lists() -> tuple[tuple[str, ...], dict[str, str], frozenset[str]]:
    """Phrases that count as one word; fixed expressions → reason; definitional words."""
    fixed = {key_of(row["term"]): row["reason"] for row in read_list("french_fixed")}
    definitional = frozenset(row["term"] for row in read_list("french_definitional"))
    every = (*forms.nouns(), *fixed, *definitional, *PRONOUN_PHRASES)
    return tuple(word for word in every if not word.isalpha()), fixed, definitional


HYPHENS = ("-", "‐", "‑")
# after these a trade in -ant needs no determiner: "elle est gérante", "comme étudiante", "enseignants et étudiants"
BEFORE_BARE_NOUNS = ETRE | LINKING | {"", "et", "ou", "comme", "que", "de", "d'", "être", "devenir", "devenu", "devenue"}
MOSTLY_ADJECTIVES = frozenset("jeune jeunes pauvre pauvres riche riches".split())
# what may follow "un jeune" where it is the noun itself
NOT_A_NOUN = (
    ETRE | AVOIR | CLITICS | ADVERBS | LINKING | forms.PREPOSITIONS | {"qui", "que", "qu'", "et", "ou", "dont", "où", "mais"}
)
DEGREES = frozenset("très plus moins trop assez si aussi peu hyper super tellement vraiment extrêmement".split())


@cache
def _people() -> dict[str, tuple[str, str, bool]]:
    """The given names; a capital may stand without its accent ("Emilie", "Eric")."""
    pairs = name_pairs("fr")
    return {**{"e" + name[1:]: other for name, other in pairs.items() if name[0] in "éèê"}, **pairs}


class FrenchText:
    """One text on its way to its counterfactual: its words, what each becomes, which determiners must agree."""

    def __init__(self, text: str, names: bool) -> None:
        phrases, self.fixed, self.definitional = _lists()
        self.text = text
        self.words = words_of(text, phrases, forms.ELIDED)
        self.people = _people() if names else {}
        self.left: list[Left] = []
        self.doubts: list[Left] = []
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

    def doubt(self, place: int, reason: str) -> None:
        word = self.words[place]
        self.doubts.append(Left(word.start, word.end, word.text, UNSURE + reason))

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
            elif (key in ("noir", "blanc") and self.before(place) in ("un", "chaque", "aucun")) or (
                key in ("noir", "blanc")
                and self.before(place) in ("le", "ce")
                and self.next(place) in ETRE | AVOIR | {"ne", "n'", "se", "s'"}
            ):
                self.head(place, "noire" if key == "noir" else "blanche", "noun", "m", False)
            elif key in ("noir", "blanc") and self.before(place) in ("le", "du", "au", "ce") and not self.next(place):
                self.doubt(place, "a colour or a person")
            elif key in forms.peoples() and (
                self.before(place) in DETERMINER_WORDS | {"d'"} or self.described(place)
                or (self.before(place) == "de" and key.endswith(("s", "x")))
            ):  # fmt: skip
                other, gender, plural = forms.peoples()[key]
                before = self.before(place)
                if before not in DETERMINER_WORDS | {"d'", "de"}:
                    before = self.before(place - 1)
                faith = key in {row["masculine"] for row in read_list("french_religions")}
                language = (
                    not faith
                    and key not in forms.NO_LANGUAGE
                    and gender == "m"
                    and not plural
                    and not capital(word)
                    and before in ("le", "l'", "du", "au", "en", "mon", "son")
                )
                if key.endswith("s") and gender == "m" and not plural and before in PLURAL_DETERMINERS:
                    other, plural = forms.plural_of(other), True
                if not language:
                    self.head(place, other, "noun", gender, plural)
                elif before in ("le", "l'", "du", "au") and (
                    self.key(place + 1) in ETRE | AVOIR or self.before(place - 1) in ETRE
                ):
                    self.doubt(place, "a language or a person")
            elif key in epicenes:
                self.mark_epicene(place, epicenes[key])

    def described(self, place: int) -> bool:
        """Whether a determiner and one adjective with a single form stand before: "ces sales Français"."""
        key = self.before(place)
        return (
            bool(key)
            and (key in forms.BEFORE_NOUNS or key in ("sale", "sales"))
            and self.before(place - 1) in DETERMINER_WORDS
        )

    def mark_name(self, place: int) -> None:
        word = self.words[place]
        other, gender, also_word = self.people[word.key]
        before = self.before(place)
        titled = before in ("m.", "mme", "mlle", "monsieur", "madame", "docteur", "docteure", "dr", "professeur", "maître")
        followed = self.glued(place + 1) and capital(self.words[place + 1])
        if (titled and not followed) or (before in self.people and capital(self.words[place - 1])):
            self.leave(place, "surname")
        elif self.gap(place) in HYPHENS or (place + 1 < len(self.words) and self.gap(place + 1) in HYPHENS):
            self.leave(place, "compound name")
        elif before in ("saint", "sainte", "rue"):
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
        revered = key in ("homme", "hommes", "dieu", "père", "mère") and capital(word) and not word.text.isupper()
        if revered and not starts_sentence(self.text, self.words, place):
            return self.leave(place, "generic" if key == "homme" else "proper name")
        if key == "dieu" and not self.has_determiner(place):
            return self.leave(place, "proper name")
        adjective_too = (key, noun.gender) in forms.adjectives() or key.endswith(("é", "és", "ée", "ées"))
        participle = key.endswith(("ant", "ants", "ante", "antes")) and before not in BEFORE_BARE_NOUNS
        beside = self.glued(place) and self.words[place - 1].human  # "une femme enseignante"
        if participle and not beside and not self.has_determiner(place):
            return  # "en passant par Lyon", "un matériau résistant"
        if adjective_too and not self.has_determiner(place):
            return  # "une femme sportive": it agrees with another noun
        if adjective_too and self.glued(place + 1) and after in forms.nouns():
            return  # "la petite patiente"
        plural, new, kind = noun.plural, noun.other, noun.kind
        many = before in PLURAL_DETERMINERS or (
            place > 1 and self.key(place - 2) in PLURAL_DETERMINERS and self.glued(place - 1)
        )
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
        if (
            self.glued(k + 1)
            and self.key(k) in ("deux", "trois", "quatre")
            and self.glued(k)
            and self.key(k - 1) in POSSESSIVES
        ):
            return True
        after = self.next(place)
        if after in ("unique", "aînée", "cadette", "adoptive"):
            return True
        if after in ("de", "d'", "du"):
            beyond = self.key(place + 2)
            named = place + 2 < len(self.words) and capital(self.words[place + 2]) and beyond not in forms.ELIDED
            owner = self.words[place + 3].key if beyond in POSSESSIVES and place + 3 < len(self.words) else ""
            owned = owner in forms.nouns() or owner in forms.epicenes()  # "la fille de mon voisin", not "de sa classe"
            return after == "du" or named or owned or beyond in ("la", "l'", "mme", "m.")
        return False

    def is_wife(self, place: int) -> bool:
        """ "la femme de Paul", "la femme du président": somebody's."""
        if self.before(place) not in ("la", "les") or self.next(place) not in ("de", "d'", "du"):
            return False
        beyond = self.words[place + 2] if place + 2 < len(self.words) else None
        return beyond is not None and (capital(beyond) or beyond.key in POSSESSIVES or beyond.key in forms.nouns())

    def has_determiner(self, place: int) -> bool:
        k = place - 1
        while self.glued(k + 1):
            key = self.key(k)
            if key in DETERMINER_WORDS or (key in ("de", "d'") and k < place - 1):
                return True  # "de bons élèves" too
            if key not in forms.BEFORE_NOUNS and not any((key, g) in forms.adjectives() for g in "mf"):
                return False
            k -= 1
        return False

    def mark_epicene(self, place: int, plural: bool) -> None:
        """ "un élève" / "une élève": the determiner or an adjective tells the gender, else it is not known ("?")."""
        after = self.next(place)
        follows = after in forms.nouns() or after in self.people or any((after, g) in forms.adjectives() for g in "mf")
        opens = self.glued(place + 1) and not (after in NOT_A_NOUN or after.endswith(("ait", "aient", "it", "a", "ment")))
        if self.key(place) in MOSTLY_ADJECTIVES and (opens or follows or not self.has_determiner(place)):
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
            gender = next(
                (g for g in "mf" if (key, g) in forms.adjectives() and (key, OTHER[g]) not in forms.adjectives()), gender
            )
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
        if head.kind == "name" and not self.has_determiner(place):
            return  # "il a entendu Paul", but "le vieux Paul"
        while self.glued(k + 1):
            key = self.key(k)
            if self.words[k].human:
                # "Madame la directrice", "le docteur Marie": another head
                break
            productive = key.endswith(("eux", "euse", "euses"))
            new = forms.adjective(key, head.gender, head.plural, productive=productive) if head.gender in "mf" else ""
            if key in DETERMINER_WORDS:
                self.owned.add(k)
                if head.target in "mf":
                    self.determiners[k] = head.target
                if key in ("tel", "telle", "certain", "certaine") and self.glued(k) and self.key(k - 1) in ("un", "une"):
                    k -= 1
                    continue
                whole = self.key(k - 1) if self.glued(k) else ""
                if whole in ("tout", "toute", "tous", "toutes") and (made := forms.adjective(whole, head.gender, None)):
                    self.set(k - 1, made, "determiner")
                if key == "des" or (key in POSSESSIVES | {"les", "ces"} and whole == "de"):
                    one = k - 1 if key == "des" else k - 2
                    made = {"un": "une", "une": "un", "chacun": "chacune", "chacune": "chacun"}.get(self.key(one), "")
                    if made and self.glued(k) and self.key(one).startswith(("une", "chacune")) == (head.gender == "f"):
                        self.head(one, made, "determiner", head.gender, False)
                if key in ("deux", "trois", "quatre", "cinq", "six", "dix") and self.glued(k):
                    k -= 1
                    continue
                break
            if new:
                self.set(k, new, "adjective")
            elif (
                key not in forms.BEFORE_NOUNS
                and key not in ADVERBS
                and not any((key, g) in forms.adjectives() for g in "mf")
            ):
                break
            k -= 1

    def adjective_after(self, place: int, gender: str, plural: bool) -> str:
        """The other form of an adjective that stands after its noun; "" if the word is none, or may be a verb."""
        key = self.key(place)
        word = self.words[place]
        if key in forms.ALSO_VERBS or word.human or (capital(word) and not word.text.isupper()):
            return ""  # "M. Petit": a name
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
            while (
                self.glued(k + 1) and (self.key(k) in ADVERBS | {"la", "le"} or is_manner(self.key(k))) and self.is_adverb(k)
            ):
                k += 1
            if head.kind == "name" and not comma and not linked:
                return
            new = self.adjective_after(k, head.gender, head.plural)
            if k > start and self.key(k - 1) in DEGREES and not self.words[k].human:
                new = new or forms.predicate(self.key(k), head.gender, head.plural)
            if (
                not new
                and k == place + 1
                and self.key(k).endswith(("ant", "ante", "ants", "antes"))
                and not self.words[k].human
            ):
                # "le président sortant a", not "une femme portant un sac", not "la femme chante"
                verb = self.key(k + 1) if self.glued(k + 1) else "."
                if verb in ETRE | AVOIR | LINKING | {"qui", "ne", "n'", "se", "s'"}:
                    new = forms.predicate(self.key(k), head.gender, head.plural)
            if not new and forms.has_one_form(self.key(k)) and not self.words[k].human:
                if self.key(start) in ("la", "le"):
                    self.set(start, "le" if head.target == "m" else "la", "determiner")
                k, linked = k + 1, comma
                continue
            if (
                not new
                and self.key(k) == "comme"
                and k == place + 1
                and (made := self.adjective_after(k + 1, head.gender, head.plural) if self.glued(k + 1) else "")
            ):
                self.set(k + 1, made, "adjective")  # "considèrent les femmes comme inférieures"
                return
            if not new and self.key(k) in ("de", "d'") and k == place + 1 and self.glued(k + 1) and self.glued(k + 2):
                # "un homme d'affaires pressé": a bare noun between
                complement = self.key(k + 1)
                if (
                    complement not in DETERMINER_WORDS
                    and not self.words[k + 1].human
                    and self.adjective_after(k + 2, head.gender, head.plural)
                ):
                    k += 2
                    continue
            if not new:
                return
            if comma and not linked and not self.closes(k):
                return
            if self.key(start) in ("la", "le"):
                self.set(start, "le" if head.target == "m" else "la", "determiner")
            self.set(k, new, kind_of(self.key(k)))
            k, linked = k + 1, False

    def is_adverb(self, place: int) -> bool:
        """An adverb before an adjective; "la plus", "le moins" included."""
        if self.key(place) in ("la", "le"):
            return self.next(place) in ("plus", "moins")
        return True

    def closes(self, place: int) -> bool:
        """Whether an adjective between commas ends its apposition: a comma, "et" or the end follows."""
        return ends_phrase(self.text, self.words, place) or self.next(place) in ("et", "ou", "mais", "de", "par", "d'")

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
            if (
                word.key in ("et", "mais", "ou")
                and self.words[k + 1 : k + 2]
                and self.words[k + 1].kind in ("adjective", "participle")
            ):
                k -= 1
                continue
            if word.key in OTHER_SUBJECTS and self.key(k - 1) in ("que", "qu'") and k < place and self.glued(k - 1):
                # "l'actrice que tu as vue est …"
                owner = self.words[k - 2] if k > 1 else None
                return owner if owner is not None and owner.human and owner.kind not in ("name", "pronoun") else None
            if (
                word.key in CLAUSE_STARTS
                or word.key in OTHER_SUBJECTS
                or (word.key in forms.fixed_gender() and not self.in_phrase(k))
            ):
                return None
            if word.key in ADVERBS or word.kind in ("adjective", "participle") or forms.has_one_form(word.key):
                k -= 1
                continue
            if word.key in ("la", "le") and self.next(k) in ("plus", "moins"):
                k -= 1
                continue
            if word.key in forms.PREPOSITIONS or word.key in ("près", "loin", "lors", "face", "grâce"):
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
        """ "la femme qui a vendu la voiture est …": the thing at ``place`` belongs to the relative clause."""
        for k in range(place - 1, max(0, place - 6), -1):
            if self.key(k) in ("que", "qu'") or not self.glued(k + 1):
                return None
            if self.key(k) == "qui" and k < place - 1:
                return self.np_head(k - 1, relative=True)
        return None


def is_manner(key: str) -> bool:
    """Whether the word looks like an adverb of manner ("monstrueusement")."""
    return key.endswith("ment") and len(key) > 6


def kind_of(key: str) -> str:
    return "participle" if key.endswith(("é", "ée", "és", "ées", "ie", "ue", "is", "ise", "ies", "ues")) else "adjective"


def opens_another(key: str) -> bool:
    """A participle after which a predicate may follow: "est devenue célèbre", "est restée seule"."""
    if key in ("tous", "toutes", "tout", "toute"):
        return True
    stems = (
        "tombé",
        "devenu",
        "resté",
        "demeuré",
        "arrivé",
        "rentré",
        "reparti",
        "parti",
        "né",
        "mort",
        "revenu",
        "été",
        "jugé",
        "considéré",
        "montré",
        "senti",
        "trouvé",
    )
    return key.removesuffix("s").removesuffix("e") in stems
