"""French predicates: which subject a verb has, and what agrees with it."""

from __future__ import annotations

import re

from teachfair.data.counterfactuals import french_forms as forms
from teachfair.data.counterfactuals.french_people import is_manner, kind_of, opens_another
from teachfair.data.counterfactuals.french_pronouns import Pronouns
from teachfair.data.counterfactuals.french_words import (
    ADVERBS,
    AVOIR,
    CLITICS,
    DEPICTIVES,
    DETERMINER_WORDS,
    ETRE,
    JUDGING,
    LINKING,
    OTHER_SUBJECTS,
    PLURAL_VERBS,
    REFLEXIVE_LINKING,
)
from teachfair.data.counterfactuals.texts import Word, capital, ends_phrase, starts_sentence

INFINITIVE = re.compile("(er|ir|re|oir)$")


class Predicates(Pronouns):
    """The adjectives and participles that agree with a subject, by rules."""

    # -- 4. predicates -----------------------------------------------------------------------------------------------------

    def agree_predicates(self) -> None:
        self.agree_appositions()
        for place, word in enumerate(self.words):
            key = word.key
            if key in ETRE or key in LINKING:
                if key in REFLEXIVE_LINKING and self.key(place - 1) not in ("se", "s'"):
                    continue
                inverted = (
                    place + 1 < len(self.words) and self.gap(place + 1) in ("-", "‐", "‑") and self.words[place + 1].human
                )
                subject = self.words[place + 1] if inverted else self.subject(place)
                if subject is None and self.before(place) in ("où", "comment", "quand", "que", "qu'", "tel", "telle"):
                    subject = self.first_person_after(place)  # "Où est passée la gardienne ?"
                if subject is None:
                    self.doubt_predicate(place)
                if subject is not None:
                    self.agree_predicate(place + (2 if inverted else 1), subject)
            elif key == "air" and self.before(place) == "l'" and self.key(place - 2) in AVOIR:
                subject = self.subject(place - 2)
                if subject is not None:
                    self.agree_predicate(place + 1, subject)
            elif (
                key in DEPICTIVES
                and not word.changed
                and place > 1
                and self.glued(place)
                and self.key(place - 1) not in AVOIR | ETRE | LINKING
            ):
                subject = self.subject(place - 1)
                if subject is not None:
                    new = forms.adjective(key, subject.gender, None) if subject.gender in "mf" else ""
                    if new:
                        self.set(place, new, "adjective")
            elif key in AVOIR and self.before(place) == "l'":
                self.agree_object(place)
            elif key in AVOIR:
                self.agree_relative(place)
            if word.kind == "clitic" and self.next(place).startswith(JUDGING):
                self.agree_predicate(place + 2, word)  # "je la trouve belle"
        self.agree_openings()

    def doubt_predicate(self, place: int) -> None:
        """A gendered predicate of which no subject was found, though an exchanged person of its gender stands before."""
        k = place + 1
        while self.glued(k) and self.key(k) in ADVERBS:
            k += 1
        if not self.glued(k) or self.words[k].changed or self.key(place - 1) in OTHER_SUBJECTS | {"été", "être"}:
            return
        genders = {g for g in "mf" if forms.adjective(self.key(k), g, None)}
        m = place - 1
        while m >= 0 and self.glued(m + 1) and (self.key(m) in CLITICS or self.key(m) in ADVERBS):
            m -= 1
        while m >= 0:
            if any(mark in self.gap(m + 1) for mark in ".!?;:…\n") or self.key(m) in OTHER_SUBJECTS:
                return
            start = self.phrase_start(m)
            if start < m and self.key(start) in DETERMINER_WORDS and not self.words[m].human:
                if not self.in_phrase(m):
                    return  # a thing is the subject
                m = start
            if self.words[m].human and self.in_phrase(m):
                m = start
            elif self.words[m].human and self.words[m].changed and self.words[m].gender in genders:
                if self.words[m].plural or self.key(place) not in PLURAL_VERBS:
                    self.doubt(k, "a predicate whose subject was not found")
                return
            m -= 1

    def agree_relative(self, place: int) -> None:
        """ "l'institutrice que tu as vue", "quelle actrice as-tu vue": the participle agrees with the noun before."""
        k, owner = place - 1, None
        if self.glued(place) and self.words[k].human and self.words[k].kind not in ("name", "pronoun", "clitic"):
            start = self.phrase_start(k)
            owner = self.words[k] if self.key(start) in ("quel", "quelle", "quels", "quelles") else None
        else:
            while self.glued(k + 1) and k > place - 6 and self.key(k) not in ("que", "qu'"):
                k -= 1
            if k > 0 and self.key(k) in ("que", "qu'") and self.glued(k) and self.glued(k + 1):
                before = self.words[k - 1]
                if before.human and before.kind not in ("name", "pronoun", "clitic"):
                    owner = before
        if owner is None:
            return
        k = place + 1
        while k < len(self.words) and (self.gap(k) in ("-", "‐", "‑") or self.key(k) in ADVERBS):
            k += 1
        if k >= len(self.words) or self.words[k].changed or self.key(k) in ("été", "fait", "laissé"):
            return
        if new := forms.predicate(self.key(k), owner.gender, owner.plural):
            self.set(k, new, "participle")

    def agree_appositions(self) -> None:
        """ "Elle est rentrée, épuisée mais ravie.": an adjective between commas, or a comma and the end, and the subject."""
        for place, word in enumerate(self.words):
            if place < 2 or word.changed or word.human or self.gap(place).strip() != ",":
                continue
            k = place
            while self.key(k) in ADVERBS and self.glued(k + 1):
                k += 1
            first, second = k, -1
            if self.next(k) in ("et", "mais") and self.glued(k + 2):
                second = k + 2
                while self.key(second) in ADVERBS and self.glued(second + 1):
                    second += 1
            last = second if second > 0 else first
            after = self.next(last)
            closed = ends_phrase(self.text, self.words, last) or after in forms.PREPOSITIONS | ADVERBS | {
                "près",
                "loin",
                "hier",
            }
            subject = self.first_subject(place, None)
            if subject is None or subject.gender not in ("m", "f") or not closed:
                continue
            if self.key(first) in forms.ALSO_VERBS or capital(self.words[first]):
                continue
            new = forms.adjective(self.key(first), subject.gender, subject.plural)
            if not new and not forms.has_one_form(self.key(first)):
                continue
            if new:
                self.set(first, new, kind_of(self.key(first)))
            if second > 0 and (new := forms.adjective(self.key(second), subject.gender, subject.plural)):
                self.set(second, new, kind_of(self.key(second)))

    def agree_object(self, place: int) -> None:
        """ "je l'ai vue": the participle agrees with the person that l' means."""
        k = place + 1
        while self.glued(k) and self.key(k) in ADVERBS:
            k += 1
        if not self.glued(k):
            return
        for gender in "fm":
            new = forms.adjective(self.key(k), gender, False)
            if new and self.key(k) not in ("été", "fait"):
                found, person = self.nearest(place, gender, self.own_subject(place - 1))
                if person and found == "thing":
                    self.doubt(k, "l' may mean a thing")
                if person or (not found and gender == "f"):
                    self.set(k, new, "participle")
                    if self.key(k).startswith(JUDGING):
                        owner = Word(0, 0, "", "", gender=gender, target="m" if gender == "f" else "f")
                        self.agree_predicate(k + 1, owner)
                return

    def agree_openings(self) -> None:
        """ "Fatiguée, elle est partie." "Née à Lyon, Marie …": an adjective that opens a sentence and its subject."""
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
            if new and self.key(start) not in forms.PREPOSITIONS and self.key(start) not in ("sûr", "dit", "fait", "tout"):
                self.set(start, new, kind_of(self.key(start)))

    def agree_predicate(self, place: int, subject: Word) -> None:
        k, budget, second = place, 10, False
        loose = True  # whether an adjective may stand here
        while k < len(self.words) and budget:
            budget -= 1
            key, comma = self.key(k), self.gap(k).strip() == ","
            if not self.glued(k) and not comma:
                return
            if key in ("et", "ou", "mais", "ni"):
                k, loose, second = k + 1, True, True
                continue
            if not loose and not comma:
                return
            strong = key == "fort" and not forms.predicate(self.next(k), subject.gender, subject.plural)
            if (key == "été" or key in ADVERBS or is_manner(key)) and not strong:
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
                if not new and forms.has_one_form(after) and key in ("un", "une") and after not in forms.fixed_gender():
                    self.determiners[k] = subject.target  # "une catholique"
                    return
                if new and (beyond == "" or beyond in ("à", "qui", "de", "d'", "du", "des", "et", "parmi", "dans", "en")):
                    self.determiners[k] = subject.target
                    self.set(k + 1, new, "adjective")
                return
            genders = subject.gender if subject.gender in ("m", "f") else "fm"
            new = next((made for g in genders if (made := self.predicate_form(k, g, subject.plural, second or comma))), "")
            if self.words[k].human:
                if k == place and self.words[k].gender != subject.gender and subject.gender in ("m", "f"):
                    self.words[k].new = ""  # "elle est professeur": the noun does not agree, before or after
                k, loose = k + 1, False
            elif key == "comme" and k > place and self.words[k - 1].kind == "participle":
                k, loose = k + 1, True  # "considérée comme très douée"
            elif (key == "rendu" and self.next(k) == "compte") or (key == "fait" and INFINITIVE.search(self.next(k))):
                return  # "elle s'est rendu compte", "elle s'est fait arrêter"
            elif new:
                if not self.words[k].changed:
                    self.set(k, new, kind_of(key))
                loose = opens_another(key)
                k += 1
            elif forms.has_one_form(key):
                k, loose = k + 1, False
            elif k + 1 < len(self.words) and (self.gap(k + 1).strip() == "," or self.next(k) in ("et", "ou", "mais")):
                k, loose = k + 1, False  # an adjective with one form: "drôle et compétente"
            else:
                return

    def predicate_form(self, k: int, gender: str, plural: bool, second: bool) -> str:
        """The other form of the word at ``k`` after être, told by its ending too; not of a word with a capital.

        ``second``: it stands after "et" or a comma, where a second verb may stand: only what cannot be one is taken.
        """
        word = self.words[k]
        if capital(word) and not word.text.isupper():
            return ""
        if word.key in forms.epicenes() or word.key in forms.fixed_gender():
            return ""
        if second:
            return "" if word.key in forms.ALSO_VERBS else forms.adjective(word.key, gender, plural)
        return forms.predicate(word.key, gender, plural)

    def subject(self, place: int) -> Word | None:
        """The swapped subject of the verb at ``place``, None if it is anything else."""
        verb, k = self.key(place), place - 1
        if verb == "été":
            while self.key(k) in ADVERBS or is_manner(self.key(k)):
                k -= 1
            if self.key(k) not in AVOIR:
                return None
            verb, k = self.key(k), k - 1
        if self.gap(k + 1).strip() in ("-",) and self.words[k].human:
            return self.words[k]
        while (
            k >= 0
            and self.glued(k + 1)
            and (self.key(k) in CLITICS or self.key(k) in ADVERBS or is_manner(self.key(k)))
            and self.words[k].kind != "clitic"
        ):
            k -= 1
        while k >= 0 and self.words[k].kind == "clitic":
            k -= 1
        if verb in ("être", "étant", "devenir", "rester", "sembler", "sentir", "montrer", "ayant"):
            for m in range(k, max(-1, k - 10), -1):
                if self.key(m) in OTHER_SUBJECTS:
                    return None
                if self.words[m].kind == "pronoun":
                    return self.words[m]
                if self.key(m) == "qui" and self.glued(m):
                    return self.np_head(m - 1, relative=True)
                if self.words[m].human and not self.in_phrase(m):
                    return self.words[m]
            return None
        if k < 0:
            return None
        key = self.key(k)
        many = verb in PLURAL_VERBS
        if key in ("il", "elle", "ils", "elles", "lui", "eux", "celle", "celui", "celles", "ceux"):
            word = self.words[k] if self.words[k].changed else None
            return self.together(k, word, place) if many and word is not None and not word.plural else word
        if key in OTHER_SUBJECTS:
            self.speaker(place, key)
            return None
        if key in ("et", "mais", "puis", "ou") and self.glued(k + 1) and verb in ETRE | AVOIR | LINKING:
            return self.first_subject(k, many)
        if key == "qui":
            found = self.np_head(k - 1, relative=True)
            return found
        found = self.np_head(k)
        if found is not None and many and not found.plural:
            return self.together(self.words.index(found), found, place)
        return found

    def first_subject(self, place: int, plural: bool | None) -> Word | None:
        """The subject that a second verb shares: "elle est tombée et s'est blessée"."""
        start = place
        while start > 0 and not any(mark in self.gap(start) for mark in ".!?;:…\n"):
            start -= 1
        for k in range(start, place):
            if self.key(k) in OTHER_SUBJECTS:
                return None
            if self.words[k].human and not self.in_phrase(k) and self.words[k].kind != "clitic":
                return self.words[k] if plural is None or self.words[k].plural == plural else None
        return None

    def speaker(self, place: int, key: str) -> None:
        """ "je suis contente": counted, not changed, unless the text names who speaks or is addressed; then in doubt."""
        k = place + 1
        while self.glued(k) and self.key(k) in ADVERBS:
            k += 1
        gendered = [g for g in ("fm" if key in ("tu", "vous") else "f") if forms.adjective(self.key(k), g, None)]
        if key not in ("je", "j'", "tu", "nous", "vous") or not self.glued(k) or not gendered:
            return
        if key in ("tu", "vous") and (called := self.addressee(k)) is not None:
            return self.agree_predicate(place + 1, called)
        self.leave(k, "speaker or addressee")
        for m in range(k + 1, len(self.words)):
            if self.key(m) in SAID and self.words[m + 1 : m + 2] and self.words[m + 1].human:
                self.doubt(k, "who speaks is named")

    def addressee(self, place: int) -> Word | None:
        """The person called by name between commas, or a comma and the end: "tu es contente, Marie ?"."""
        for m in range(len(self.words)):
            word = self.words[m]
            if not word.human or word.kind not in ("name", "title", "kinship"):
                continue
            after = self.gap(m + 1).strip() if m + 1 < len(self.words) else self.text[word.end :].strip()
            alone = self.gap(m).strip() == "," if m else True
            if alone and ((m < place and after[:1] == ",") or (m > place and after[:1] in (*"?!.,", ""))):
                return word
        return None

    def together(self, place: int, last: Word, verb: int) -> Word | None:
        """The subject of a plural verb whose last part is ``last``: "Marie et Anne sont"."""
        start = self.phrase_start(place)
        if self.key(start - 1) not in ("et", "ou", "ni"):
            return None
        first = self.np_head(start - 2)
        if first is None or first.gender != last.gender:
            if first is not None and verb + 1 < len(self.words) and self.words[verb + 1].human:
                self.doubt(verb + 1, "a noun for a mixed group")  # "Paul et elle sont amis"
            return None
        return Word(
            last.start, last.end, last.text, last.key, gender=last.gender, target=last.target, plural=True, human=True
        )


SAID = frozenset(
    """dit déclare déclara répond répondit explique expliqua affirme affirma confie confia raconte raconta ajoute ajouta
    s'exclame exclame exclama soupire soupira murmure murmura crie cria demande demanda annonce annonça""".split()
)
