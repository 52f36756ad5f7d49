"""French pronouns: il/elle, lui, le/la, and what they can mean."""

from __future__ import annotations

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.french_people import FrenchText
from teachfair.data.counterfactuals.french_words import (
    ADVERBS,
    AVOIR,
    ETRE,
    FEMININE,
    IMPERSONAL,
    IMPERSONAL_PARTICIPLES,
    IMPERSONAL_PREDICATES,
    INDEFINITE,
    INFINITIVES,
    INVERTED_VERBS,
    LINKING,
    MASCULINE,
    MODALS,
    OBJECT_VERBS,
    OF_PERSONS,
    OF_SAYING,
    PERSONAL_WITH_DE,
    PERSONS_MOSTLY,
    PERSONS_TOO,
    PLURAL_DETERMINERS,
    PLURAL_VERBS,
    REACH,
    REFLEXIVE_LINKING,
    STAND_ALONE,
)
from teachfair.data.counterfactuals.texts import Word, ends_phrase, starts_sentence


class Pronouns(FrenchText):
    """What each pronoun means, and what it becomes."""

    # -- 3. pronouns ------------------------------------------------------------------------------------------------------

    def is_thing(self, k: int, gender: str) -> bool:
        """Whether the word at ``k`` is the determiner of a thing of this gender, or a noun whose gender is its own."""
        key = self.key(k)
        determiner = key in (FEMININE if gender == "f" else MASCULINE) and k not in self.owned
        if determiner and not self.is_clitic(k) and self.glued(k + 1) and k not in self.determiners:
            return True
        return forms.fixed_gender().get(key) == gender and not key.endswith("s")

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
            if not plural and self.is_thing(k, gender):
                found = found or "thing"
            if forms.fixed_gender().get(word.key) == gender and word.key.endswith("s") == plural:
                found = found or "thing"
            if found and not people_first:
                return found
        return found

    def nearest(self, place: int, gender: str, without: set[int]) -> tuple[str, bool]:
        """The nearest singular meaning before ``place``, and whether a person can be meant at all."""
        first = ""
        for k in range(place - 1, max(-1, place - REACH), -1):
            word = self.words[k]
            if (
                word.human
                and word.gender in (gender, "?")
                and not word.plural
                and k not in without
                and word.kind != "clitic"
            ):
                return first or "person", True
            if not first and self.is_thing(k, gender):
                first = "thing"
        return first, False

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
            elif key in ("le", "la") and place not in self.owned:
                self.mark_clitic(place)

    def mark_clitic(self, place: int) -> None:
        """le/la before its verb: exchanged if a person is meant, left if a thing is; else in doubt."""
        key, verb = self.key(place), self.next(place)
        gender = "f" if key == "la" else "m"
        sure = self.is_clitic(place)
        if not sure and not self.may_be_clitic(place):
            return
        nearest, person = self.nearest(place, gender, self.own_subject(place))
        if not sure:
            if person:
                self.doubt(place, "le or la after a conjunction, article or pronoun")
            return
        if gender == "m" and verb.startswith(OF_SAYING) and verb not in ("suit", "suivait", "suivre", "surprend", "surprit"):
            if person:
                self.doubt(place, "le may mean what was said")
            return
        if person and nearest == "thing":
            self.doubt(place, "le or la may mean a thing")
        elif nearest == "" and (gender == "m" or self.thing_of_any_gender(place)):
            self.doubt(place, "le or la without a person before it")
            return
        if person or (nearest == "" and gender == "f"):
            self.head(place, "le" if key == "la" else "la", "clitic", gender, False)

    def thing_of_any_gender(self, place: int) -> bool:
        """Whether a thing whose determiner hides its gender was named: "son alliance", "l'eau"."""
        return any(
            self.key(k) in ("son", "mon", "ton", "l'", "leur", "notre", "votre", "chaque")
            and k not in self.owned and not self.words[k + 1].human
            and self.key(k + 1) not in AVOIR | ETRE
            for k in range(max(0, place - 40), place - 1)
        )  # fmt: skip

    def own_subject(self, place: int) -> set[int]:
        """The places of the subject of the verb that the clitic at ``place`` stands before: it means somebody else."""
        k = place - 1
        while self.glued(k + 1) and self.key(k) in ("ne", "n'", "me", "m'", "te", "t'", "nous", "vous", "se", "s'"):
            k -= 1
        if self.key(k) in ("et", "mais", "puis", "ou"):
            start = k
            while start > 0 and not any(mark in self.gap(start) for mark in ".!?;:…\n"):
                start -= 1
            first = next((m for m in range(start, k) if self.words[m].human and not self.in_phrase(m)), None)
            return set() if first is None else {first}
        if k >= 0 and self.glued(k + 1) and self.key(k) == "qui":
            k -= 1
        for m in range(k, max(-1, k - 6), -1):
            if not self.glued(m + 1):
                return set()
            if self.words[m].human and not self.in_phrase(m):
                return {m}
            if self.key(m) in ("que", "qu'", "si", "quand", "et", "mais"):
                return set()
        return set()

    def may_be_clitic(self, place: int) -> bool:
        """le/la after a conjunction, before a word that may be a verb in the present: "et la salue"."""
        before, verb = self.before(place), self.next(place)
        if not verb or not self.glued(place + 1) or place < 2:
            return False
        start = self.phrase_start(place - 1)
        noun = self.glued(place) and start < place - 1 and not self.in_phrase(place - 1)  # "le chat la regarde"
        if before not in ("et", "mais", "puis", "ou") and not noun:
            return False
        following = self.words[place + 1]
        known = (
            following.human
            or (verb, "m") in forms.adjectives()
            or (verb, "f") in forms.adjectives()
            or verb in forms.BEFORE_NOUNS
        )
        return not known and verb.endswith(("e", "t", "d", "s")) and self.next(place + 1) not in ("de", "d'", "du", "des")

    def mark_subject(self, place: int, gender: str, plural: bool, new: str = "") -> None:
        about = self.said_of_a_person(place)
        if self.antecedent(place, gender, plural, True) == "thing" and not (about and not plural):
            return self.leave(place, "pronoun of a thing, or of a noun of fixed gender")
        if plural and gender == "m" and self.mixed_before(place):
            return self.leave(place, "a mixed group")
        if plural:
            self.doubt_plural(place, gender)
        elif not about and self.nearest(place, gender, set()) == ("thing", True) and self.said_of_anything(place):
            self.doubt(place, "il or elle may mean a thing")
        made = new or {("m", False): "elle", ("m", True): "elles", ("f", False): "il", ("f", True): "ils"}[gender, plural]
        self.head(place, made, "pronoun", gender, plural)

    def predicate_of(self, place: int) -> int:
        """The place of what follows être (or sembler …) after the pronoun at ``place``; -1 if it has no such verb."""
        k = place + 1
        while self.glued(k) and self.key(k) in ("ne", "n'", "s'", "se", "y", "en", "lui", "me", "nous"):
            k += 1
        if self.key(k) in AVOIR and self.key(k + 1) == "été":
            k += 1
        reflexive = self.key(k - 1) in ("se", "s'")
        if not self.glued(k) or self.key(k) not in ETRE | LINKING or (self.key(k) in REFLEXIVE_LINKING and not reflexive):
            return -1
        k += 1
        while self.glued(k) and (self.key(k) in ADVERBS or self.key(k) in ("plus", "moins", "été")):
            k += 1
        return k if self.glued(k) else -1

    def said_of_a_person(self, place: int) -> bool:
        """Whether only a person can be what the verb says: "elle est fatiguée", "il est médecin"."""
        k = self.predicate_of(place)
        if k < 0:
            return False
        if self.key(k) in ("un", "une", "le", "la", "l'") and k + 1 < len(self.words):
            k += 1
        key = self.key(k)
        return (
            self.words[k].human
            or key in OF_PERSONS
            or key in forms.nouns()
            or key in forms.epicenes()
            or (key == "d'" and self.next(k) == "accord")
        )

    def said_of_anything(self, place: int) -> bool:
        """Whether the verb after the pronoun may have a thing for its subject: être, coûter, fonctionner …"""
        if self.key(self.predicate_of(place)) in PERSONS_MOSTLY | forms.peoples().keys():
            return False
        return self.predicate_of(place) >= 0 or self.next(place) in (
            "coûte", "coûtait", "coûtera", "fonctionne", "fonctionnait", "marche", "marchait", "dure", "durait", "contient",
            "contenait", "pèse", "brille", "sert", "servait", "appartient", "appartenait",
        )  # fmt: skip

    def doubt_plural(self, place: int, gender: str) -> None:
        """ils, elles: in doubt if a plural that is no known group stands nearer than one, or "ils" may hold a woman."""
        for k in range(place - 1, max(-1, place - REACH), -1):
            word = self.words[k]
            if word.human and word.plural and word.gender in (gender, "?"):
                return
            if (
                self.key(k) in PLURAL_DETERMINERS
                and k not in self.owned
                and self.glued(k + 1)
                and not self.words[k + 1].human
                and not self.in_phrase(k + 1)
            ):
                return self.doubt(place, "ils or elles may mean things, or people whose noun no list knows")
        if gender == "m" and any(w.human and w.gender == "f" and not w.plural for w in self.words[:place]):
            self.doubt(place, "ils may mean a group with the woman")

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
            or before == "ni"
            or (linked and (end or after in ("et", "ou", "aussi", "seule", "seules", "qui")))
            or (before == "et" and after in PLURAL_VERBS and self.words[place - 2].human and not plural)
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
        if before == "ni" or (starts_sentence(self.text, self.words, place) and after in ("et", "ou", "seul")):
            return True
        if before in ("que", "comme", "et", "ou", "ni") and (end or after in ("et", "ou", "aussi", "seul", "qui")):
            return True
        if before == "et" and after in PLURAL_VERBS and place > 1 and self.words[place - 2].human:
            return True
        comma = self.gap(place + 1).strip() == "," if place + 1 < len(self.words) else False
        return after in ("aussi", "seul", "qui", "non plus") or (comma and starts_sentence(self.text, self.words, place))

    def is_impersonal(self, place: int) -> bool:
        """Whether "il" stands for nothing: by its verb, and what follows it."""
        if self.gap(place).endswith(("-", "‐", "‑")):
            # "y a-t-il", "faut-il", "reste-t-il", "est-il vrai que"
            at = place - (2 if self.key(place - 1) == "t" else 1)
            how_much = any(self.key(k) == "combien" for k in range(max(0, at - 5), at))
            return (how_much and self.key(at) in INVERTED_VERBS) or self.is_impersonal_verb(at, place + 1)
        k = place + 1
        while self.glued(k) and self.key(k) in (
            "ne",
            "n'",
            "s'",
            "se",
            "me",
            "m'",
            "te",
            "t'",
            "lui",
            "nous",
            "vous",
            "leur",
            "en",
        ):
            k += 1
        return self.glued(k) and self.is_impersonal_verb(k, k + 1)

    def is_impersonal_verb(self, at: int, after: int) -> bool:
        """Whether the verb at ``at``, with what stands from ``after`` on, has no subject but "il"."""
        verb, reflexive, k = self.key(at), self.key(at - 1) in ("s'", "se"), after
        while self.key(k) in (
            "pas",
            "plus",
            "jamais",
            "donc",
            "aussi",
            "encore",
            "toujours",
            "même",
            "bien",
            "souvent",
            "guère",
        ):
            k += 1
        what = self.key(k)
        there = verb == "y" or self.key(at - 1) == "y"
        if there and (verb in AVOIR or (verb == "y" and self.key(at + 1) in {*AVOIR, "en"})):
            return True
        if verb in IMPERSONAL or (reflexive and verb in ("agit", "agissait", "agira", "agisse", "agirait")):
            return True
        if reflexive and verb in ("peut", "pourrait", "pouvait", "avère", "avérait", "trouve", "trouvait", "ensuit", "fait"):
            return what in ("que", "qu'", "tard")
        if reflexive and verb in ("passe", "passait", "produit", "est", "était"):
            happened = self.key(k) in ("passé", "produit", "avéré", "trouvé")
            return (self.key(k + 1) if happened else what) in INDEFINITE and (happened or verb not in ("est", "était"))
        if verb in MODALS:
            # "il doit y avoir", "il va falloir"
            return (
                (what == "y" and self.key(k + 1) == "avoir")
                or what in ("falloir", "pleuvoir", "neiger", "suffire")
                or (what == "s'" and self.key(k + 1) == "agir")
            )
        if verb in ("fait", "faisait", "fera", "ferait"):
            return what in (
                "froid",
                "chaud",
                "beau",
                "nuit",
                "jour",
                "noir",
                "mauvais",
                "gris",
                "bon",
                "doux",
                "frais",
                "sombre",
                "très",
            )
        if verb in ("va", "allait") and self.key(k - 1) != "y":
            return what == "de" and self.key(k + 1) == "soi"
        if verb in AVOIR and what in IMPERSONAL_PARTICIPLES:
            return True
        if verb in AVOIR and what in ("semblé", "paru", "manqué"):
            return self.key(k + 1) in INDEFINITE - {"de", "d'", "à", "plus", "moins"}
        if verb in INVERTED_VERBS:
            if verb in ("vaut", "valait", "vaudra", "vaudrait"):
                return what == "mieux" or self.key(k + 1) == "mieux"
            if verb in ("convient", "convenait", "conviendra", "suffit", "suffisait", "suffira", "suffirait"):
                return what in ("de", "d'", "que", "qu'")
            if verb in PERSONS_TOO:
                return (
                    what in ("que", "qu'")
                    or (
                        what
                        in INDEFINITE
                        - {
                            "de",
                            "d'",
                            "à",
                            "plus",
                            "moins",
                            "encore",
                            "toujours",
                            "bien",
                            "trop",
                            "peu",
                            "assez",
                            "un",
                            "une",
                        }
                    )
                    or (what == "peu" and self.key(k + 1) in ("de", "d'"))
                )
            return what in INDEFINITE or what == ""
        if verb in ("est", "était", "sera", "serait", "fut", "soit"):
            return self.is_impersonal_predicate(k, what)
        return False

    def is_impersonal_predicate(self, k: int, what: str) -> bool:
        degree = ""
        while self.key(k) in ADVERBS or (self.key(k) == "une" and self.key(k + 1) == "fois"):
            if self.key(k) == "une":
                return True
            degree = degree or self.key(k)
            k += 1
        what, then = self.key(k), self.next(k)
        if what in IMPERSONAL_PREDICATES:
            return what not in (
                "certain",
                "important",
                "dit",
                "permis",
                "défendu",
                "exclu",
                "faux",
                "rare",
                "normal",
                "inutile",
                "utile",
            ) or (then in ("que", "qu'", "de", "d'"))
        if then in ("que", "qu'") and degree not in (
            "plus",
            "moins",
            "aussi",
            "si",
            "tellement",
            "tant",
            "trop",
            "meilleur",
        ):
            return what not in PERSONAL_WITH_DE and bool(forms.predicate(what, "m", False) or forms.has_one_form(what))
        if (
            then in ("de", "d'")
            and what not in PERSONAL_WITH_DE
            and what.endswith(("ant", "able", "ible", "el", "al", "ile"))
        ):
            infinitive = self.key(k + 2)
            return infinitive.endswith(("er", "ir", "re", "oir"))
        return False

    def is_clitic(self, place: int) -> bool:
        """Whether le/la at ``place`` is a pronoun before its verb, not an article."""
        before, after = self.before(place), self.next(place)
        if self.gap(place).endswith(("-", "‐", "‑")):
            return True
        if before in OBJECT_VERBS or before in ("me", "te", "nous", "vous"):
            return True
        if before in ("et", "mais", "puis", "ou") and after and place > 2:
            past = after.endswith(("ait", "aient", "èrent", "irent", "urent", "it")) and after not in NOUNS_IN_IT
            return past or (
                after.endswith(("ra", "ta", "sa", "na", "la", "ça", "ssa", "da", "ba", "ma", "va", "ca"))
                and after not in NOUNS_IN_A
            )
        if (
            0 < place < len(self.words)
            and self.glued(place)
            and self.words[place - 1].human
            and not self.in_phrase(place - 1)
        ):
            subject = self.words[place - 1].kind not in ("pronoun", "clitic", "adjective") or before in OBJECT_VERBS
            return (
                subject and after not in ("plus", "moins") and not self.words[place + 1].human
                if place + 1 < len(self.words)
                else False
            )
        return after in INFINITIVES


NOUNS_IN_IT = frozenset(
    """lait fait trait portrait souhait retrait attrait extrait bienfait forfait méfait lit bruit fruit esprit crédit
    produit récit conduit circuit profit conflit débit délit petit habit appétit dépit répit huit nuit minuit édit
    audit droit toit endroit doigt détroit exploit""".split()
)
NOUNS_IN_A = frozenset(
    """caméra opéra panda visa sofa villa véranda pizza diva mafia saga pyjama cinéma drama sauna cola vodka samba rumba
    salsa polka moussaka agenda tapioca choléra nirvana iguana banana data aura sierra java bazooka delta boa lama
    plasma schéma panorama magma dilemma trauma coma karma gala koala influenza malaria""".split()
)
