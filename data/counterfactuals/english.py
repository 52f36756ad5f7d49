"""English: group words exchanged by list, her/his/him by syntax, a/an by sound.

``her`` is ``his`` before a noun phrase and ``him`` elsewhere; ``his`` is ``her`` before a noun phrase and ``hers`` where
it stands alone. No parser decides that but the words around: :func:`_stands_alone` says how, and docs/counterfactuals.md
how often it is wrong.
"""

from __future__ import annotations

import re
from functools import cache

from teachfair.data.counterfactuals.texts import (
    UNSURE,
    Change,
    Left,
    Swapped,
    Word,
    between,
    capital,
    decided,
    edited,
    ends_phrase,
    like,
    name_pairs,
    origin_names,
    read_list,
    shouted,
    starts_sentence,
    words_of,
)

# A word after "her" that cannot open the noun phrase it would own: her = him.
NO_NOUN_PHRASE = frozenset(
    """a an the this that these those my your our their its his her him me you us them it i we he she they who whom whose
    which what when where why how if whether because since although though while until unless before after and or
    but nor so than as to of in on at by for from with without about into onto over under through during against
    between among near toward towards behind beside beneath across around off out up down away back again is was are
    were be been being am has had have do does did will would can could may might must shall should not never too
    also yesterday today tonight tomorrow now then there here soon later earlier once twice instead anyway anyways
    anymore either alone home every each all both some any no something anything everything nothing yet already
    directly immediately personally enough please when whenever wherever upstairs downstairs outside inside forward
    goodbye hello thanks one lots plenty often always sometimes less afterwards anywhere everywhere somewhere""".split()
)
TIMES = frozenset(
    """night week month year summer winter spring autumn monday tuesday wednesday thursday friday saturday sunday""".split()
)
# "made her happy", "saw her leave": what follows her belongs to the verb
CAUSE_OR_SEE = frozenset(
    """make makes made making let lets letting see sees saw seen seeing watch watches watched watching hear hears
    heard hearing feel feels felt help helps helped helping have had notice noticed observe observed""".split()
)
JUDGE = frozenset(
    """make makes made making find finds found finding consider considers considered considering call calls called
    calling think thinks thought believe believed deem deems deemed render rendered drive drives drove driven
    leave left keep keeps kept keeping get got declare declared paint painted pronounce pronounced label
    labelled""".split()
)
GIVE = frozenset(
    """give gives gave given giving offer offers offered offering send sends sent sending bring brings brought buy buys
    bought pay pays paid owe owes owed lend lends lent teach teaches taught teaching tell tells told show shows
    showed shown hand hands handed pass passed serve serves served wish wished wishes ask asks asked promise
    promised award awarded cost costs costing grant granted grants deny denied denies save saved saves charge
    charged charges read reads fine fined bill billed sell sells sold earn earned earns leave wishing owing paying
    giving bringing showing offering""".split()
)
GIFTS = frozenset(
    """advice flowers money food water tea coffee information permission help credit directions medicine books gifts
    chocolate chocolates lessons time access support hope courage strength trouble questions good luck feedback respect
    asylum maths math French English German Spanish piano chess stories lies news proof jewellery jewelry cash wine
    tickets roses letters messages emails work power freedom pleasure shelter breakfast lunch dinner two three four five
    several many more less most half another happiness success""".lower().split()
)
BARE_VERBS = frozenset(
    """go leave cry laugh sing dance walk run talk speak move feel sleep smile wait stay come enter play win lose
    fall eat drink work think know look see take make get do be have say tell write read sit stand swim drive
    study learn choose decide finish pay try understand believe want wonder apologize apologise explain sign buy
    sell open close pass fight find keep carry cook clean prepare repair build teach give put pack climb jump
    score argue complain resign return realise realize forget remember succeed fail improve grow suffer live die
    breathe arrive cross stop start help""".split()
)
SERVE = frozenset(
    """give gives gave given giving offer offers offered bring brings brought buy buys bought serve serves served hand hands
    handed lend lends lent""".split()
)
COSTS = frozenset("cost costs costing owe owes owed charge charged charges deny denied denies wish wished wishes".split())
# plurals of people: "told her friends", "showed her students" own them
PLURAL_PEOPLE = re.compile(
    r"(parents|friends|kids|siblings|relatives|students|pupils|colleagues|peers|neighbou?rs|cousins|clients|patients|guests|fans|"
    r"guards|staff|classmates|teammates|children|patients|clients|agents|parents|audience|customers|followers|readers|\w+(?:ers|ors|ists|ees|ants|mates))"
)
# verbs whose past tells that no noun stands here: "a friend of his called", "nobody but her knew"
FINITE = frozenset(
    """is was are were has had does did will would can could may might must should says said went came saw knew told got
    gave took made thought found left felt became began brought bought kept sat stood spoke wrote won lost ran met
    paid taught died knows wants likes thinks works lives comes goes seems understood helped asked called""".split()
)
FINITE_TOO = frozenset("left thought felt found must can will works likes wants does might lost paid made lives saw".split())
APPOINT = frozenset("make makes made making name named elect elected appoint appointed crown crowned choose chose".split())
ROLES = frozenset(
    """captain president chair head manager director leader secretary treasurer chief king queen editor mayor minister
    ambassador chairman chairwoman champion heir heiress""".split()
)
INDEFINITE = frozenset("nobody everybody anybody everyone anyone none one nothing all no who".split())
DETERMINERS = frozenset("a an the his her my our your their its this that these those some any every each another".split())
PREPOSITIONS_OF_PLACE = frozenset("behind beside near opposite before after below above next".split())
NOT_AFTER_TO = frozenset("host man father mother husband usher groom steward nurse hosts".split())
KIN_OR_SELF = frozenset(
    """child baby friend boss family parent partner self life job career teacher doctor cousin neighbor neighbour colleague
    dog cat team students kids class""".split()
)
HELP_OR_SENSE = frozenset(
    """let lets letting see sees saw watch watches watched watching hear hears heard help helps helped helping""".split()
)
NOUNS_LIKE_ADJECTIVES = frozenset("table vegetable cable dish wish finish polish handful mouthful fistful income".split())
STARTERS = frozenset(
    """everyone everybody nobody somebody someone anyone anybody society people police management life love nature god none
    perhaps maybe however therefore meanwhile still even only just being having such another other most many much
    few several english french german christmas monday tuesday wednesday thursday friday saturday sunday january
    february march april may june july august september october november december internet african asian black white
    hispanic latino nowadays today science history music work school fate luck time money news""".split()
)
TITLES = frozenset("""mr mrs ms miss dr professor prof judge president senator mister missus captain sergeant""".split())
ADDRESSES = frozenset(
    """sir lady lord king queen prince princess aunt uncle dear i sister brother saint grandma grandpa""".split()
)
BEFORE_MONTHS = frozenset("in by of on last next this every since until till from early late mid during".split())
SILENT_H = ("heir", "honest", "honour", "honor", "hour")
YOU_SOUND = ("uni", "use", "usu", "eu", "ukrain", "one", "once", "u.s")


@cache
def _gender_words() -> tuple[dict[str, tuple[str, str, str]], tuple[str, ...], dict[str, str]]:
    """Word → (other word, kind, own gender); phrases; fixed expressions → reason."""
    table: dict[str, tuple[str, str, str]] = {}
    for row in read_list("english_gender"):
        if row["direction"] in ("both", "m>f"):
            table.setdefault(row["male"], (row["female"], row["kind"], "m"))
        if row["direction"] in ("both", "f>m"):
            table.setdefault(row["female"], (row["male"], row["kind"], "f"))
    for row in read_list("english_man_compounds"):
        stem = row["stem"].lower()
        for male, female in (("man", "woman"), ("men", "women")):
            table[stem + male] = (stem + female, "compound", "m")
            table[stem + female] = (stem + male, "compound", "f")
    fixed = {row["term"]: row["reason"] for row in read_list("english_fixed")}
    phrases = tuple(word for word in (*table, *fixed, *_definitional()) if not word.isalpha())
    return table, phrases, fixed


@cache
def _adjectives() -> frozenset[str]:
    return frozenset(row["adjective"] for row in read_list("english_adjectives"))


def _is_adjective(key: str) -> bool:
    """Whether this can only be said of a person ("lazy", "hopeless", "angrier"), not owned by one."""
    return (
        key in _adjectives()
        or (key.endswith(("ous", "ful", "less", "able", "ible", "ish", "some")) and key not in NOUNS_LIKE_ADJECTIVES)
        or (
            key.endswith("ier")
            and key not in ("soldier", "barrier", "carrier", "cashier", "courier", "pier", "premier", "supplier")
        )
    )


@cache
def _definitional() -> frozenset[str]:
    return frozenset(row["term"] for row in read_list("english_definitional"))


def swap_gender(text: str, *, names: bool = True, definitional: str = "text", unsure: str = "leave") -> Swapped:
    """See :func:`teachfair.data.counterfactuals.swap`."""
    table, phrases, fixed = _gender_words()
    people = name_pairs("en") if names else {}
    words = words_of(text, phrases)
    left = [Left(w.start, w.end, w.text, "definitional") for w in words if w.key in _definitional()]
    if left and definitional == "text":
        return Swapped(text, [], left)
    for place, word in enumerate(words):
        if word.key in _definitional():
            continue
        if word.key in fixed:
            left.append(Left(word.start, word.end, word.text, fixed[word.key]))
            continue
        if word.key in ("her", "hers", "his", "him"):
            new, kind = _possessive_or_object(text, words, place)
        elif word.key in people and capital(word):
            reason = _not_a_first_name(text, words, place, people)
            if reason:
                left.append(Left(word.start, word.end, word.text, reason))
                continue
            new, kind = people[word.key][0], "name"
        elif word.key == "miss":
            if not capital(word) or place + 1 >= len(words) or not capital(words[place + 1]):
                continue
            new, kind = "mr", "title"
        elif word.key in table:
            reason = _not_a_person(text, words, place)
            if reason:
                left.append(Left(word.start, word.end, word.text, reason))
                continue
            new, kind, _ = table[word.key]
            if word.key in ("sir", "lady") and capital(word) and _before_name(text, words, place):
                new, kind = ("lady" if word.key == "sir" else "lord"), "title"
        elif re.fullmatch(r"[a-z]{3,}wom[ae]n", word.key):
            new, kind = word.key.replace("woman", "man").replace("women", "men"), "compound"
        else:
            continue
        word.new = _restyle(word, new, kind, shouted(words, place))
        word.kind = kind
        word.human = True
        word.gender = _gender(word.key, table, people)
    doubts = [*_doubtful_her(text, words), *(_unknown_names(text, words, people) if names else [])]
    return decided(text, _finished(text, words, left), doubts, unsure)


def _gender(key: str, table: dict[str, tuple[str, str, str]], people: dict[str, tuple[str, str, bool]]) -> str:
    if key in people:
        return people[key][1]
    if key in table:
        return table[key][2]
    return "m" if key in ("him", "his") else "f"


# -- doubts ------------------------------------------------------------------------------------------------------------


def _doubtful_her(text: str, words: list[Word]) -> list[Left]:
    """her before a bare plural after a verb of giving: "gave her keys" says two things."""
    found = []
    for place, word in enumerate(words[:-1]):
        if word.key != "her" or not place or words[place - 1].key not in GIVE | JUDGE or ends_phrase(text, words, place):
            continue
        before, after = words[place - 1].key, words[place + 1].key
        beyond = "" if ends_phrase(text, words, place + 1) else words[place + 2].key
        if after in NO_NOUN_PHRASE | GIFTS or after == "own" or PLURAL_PEOPLE.fullmatch(after) or after in KIN_OR_SELF:
            continue
        one = beyond == "" or beyond in NO_NOUN_PHRASE
        if before in SERVE and one and after not in _gender_words()[0] and not after.endswith("s"):
            found.append(Left(word.start, word.end, word.text, UNSURE + "her before one word"))
        elif (
            before in GIVE - COSTS
            and beyond not in ("to", "away", "back")
            and _last_of_phrase(text, words, place).endswith("s")
        ):
            if not PLURAL_PEOPLE.fullmatch(_last_of_phrase(text, words, place)):
                found.append(Left(word.start, word.end, word.text, UNSURE + "her before a bare plural"))
        elif (
            before in ("call", "called", "calls", "calling", "deem", "deemed", "label", "labelled")
            and not beyond
            and not (after in _gender_words()[0] or _is_adjective(after) or capital(words[place + 1]))
        ):
            found.append(Left(word.start, word.end, word.text, UNSURE + "her before one word"))
    return found


def _last_of_phrase(text: str, words: list[Word], place: int) -> str:
    """The last word of the bare noun phrase after ``place``."""
    k = place + 1
    while not ends_phrase(text, words, k) and words[k + 1].key not in NO_NOUN_PHRASE and k < place + 3:
        k += 1
    return words[k].key if not words[k].key.endswith("ss") else ""


def _unknown_names(text: str, words: list[Word], people: dict[str, tuple[str, str, bool]]) -> list[Left]:
    """Names that no list knows, beside exchanged words that may speak of them: "Kwame … her".

    A pronoun is that of the name unless a known person of its gender is named too, before it.
    """
    found = []
    for place, word in enumerate(words):
        if (
            word.changed
            or not capital(word)
            or len(word.text) < 2
            or word.key in people
            or not _names_a_person(text, words, place)
        ):
            continue
        if place and words[place - 1].kind in ("kinship", "noun", "compound") and not capital(words[place - 1]):
            found.append(Left(word.start, word.end, word.text, UNSURE + "a name that no list knows"))
            continue
        for k in range(place + 1, len(words)):
            other = words[k]
            told = other.kind in ("pronoun", "possessive", "reflexive") or (
                other.kind in ("noun", "kinship", "compound")
                and any(w.key in ("is", "was", "became") for w in words[max(place + 1, k - 4) : k] if place + 5 > k)
            )
            if not told or not other.changed:
                continue
            if any(
                w.gender == other.gender and w.kind not in ("pronoun", "possessive", "reflexive")
                for w in words[:k]
                if w.changed
            ):
                continue
            found.append(Left(word.start, word.end, word.text, UNSURE + "a name that no list knows"))
            break
    return found


def _names_a_person(text: str, words: list[Word], place: int) -> bool:
    """Whether an unknown word with a capital stands where a person's name would."""
    word, before = words[place], words[place - 1].key if place else ""
    after = words[place + 1].key if not ends_phrase(text, words, place) else ""
    mark = between(text, words, place + 1).strip() if place + 1 < len(words) else ""
    if word.text.isupper() or word.key in NO_NOUN_PHRASE | STARTERS or word.key in _not_names():
        return False
    verb = (
        after in FINITE
        or (after.endswith("ed") and after != "need")
        or (after.endswith("s") and len(after) > 3 and not after.endswith("ss"))
    )
    if starts_sentence(text, words, place):
        if word.key.endswith(("ing", "ly", "tion", "ment", "ness", "ity", "ism", "ship", "ed")):
            return False
        if word.key.endswith("s") and after not in ("is", "was", "has", "does"):
            return False
        return (
            verb
            or (mark in ("'", "’") and words[place + 1].key == "s")
            or (mark == "," and place + 2 < len(words) and words[place + 1].key == "who")
        )
    if (
        before in ("in", "at", "from", "to", "of", "on", "near", "across", "the", "a", "an", "this", "that")
        or before in TITLES
    ):
        return False
    if capital(words[place - 1]) and not between(text, words, place).strip():
        return False  # a surname
    apposition = between(text, words, place).strip() == "," and mark == "," and words[place - 1].changed
    return verb or apposition or words[place - 1].kind in ("kinship", "noun", "compound")


@cache
def _not_names() -> frozenset[str]:
    """Adjectives and countries, that have capitals too, and the names of all genders, which may stay."""
    rows = [*read_list("english_origins"), *read_list("english_religions"), *read_list("english_unisex_names")]
    return frozenset(part for row in rows for cell in row.values() for part in cell.lower().split())


def _restyle(word: Word, new: str, kind: str, shouting: bool) -> str:
    if kind == "title" and new in ("mr", "ms") and not (word.text.isupper() and len(word.text) > 2 and shouting):
        return new.upper() if word.text in ("MR", "MS") else (new if word.text.islower() else new.capitalize())
    return like(word.text, new, shouting)


def _before_name(text: str, words: list[Word], place: int) -> bool:
    return place + 1 < len(words) and capital(words[place + 1]) and not between(text, words, place + 1).strip()


def _not_a_person(text: str, words: list[Word], place: int) -> str:
    """Why the word at ``place``, though in the list, names no person here; "" if it does."""
    word, before = words[place], words[place - 1].key if place else ""
    after = words[place + 1].key if not ends_phrase(text, words, place) else ""
    if word.key in NOT_AFTER_TO and before in ("to", "will", "would", "can", "could", "should", "must"):
        return "verb"
    if word.key in ("man", "groom", "host", "usher") and before in ("who", "i", "we", "they", "you"):
        return "verb"
    if word.key == "god" and before not in ("a", "the", "this", "that", "greek", "roman", "sun", "sea"):
        return "proper name"
    if word.key in ("god", "lord") and capital(word) and before not in ("the", "a") and not _before_name(text, words, place):
        return "proper name"
    if word.key in ("earl", "king", "prince", "duke", "baron", "steward", "abbot", "priest") and capital(word):
        named = before in ("the", "a", "an", "my", "our", "your", "dear", "and") or _before_name(text, words, place)
        if not named and not word.text.isupper() and not starts_sentence(text, words, place):
            return "surname"
    if word.key in ("host", "hosts", "male", "female") and after in ("country", "city", "plug", "connector", "of"):
        return "fixed expression"
    if word.key == "man" and not before and after in ("has", "is", "cannot"):
        return "generic"
    return ""


def _not_a_first_name(text: str, words: list[Word], place: int, people: dict[str, tuple[str, str, bool]]) -> str:
    word = words[place]
    if people[word.key][2] and (
        starts_sentence(text, words, place)
        or words[place - 1].key in BEFORE_MONTHS
        or re.match(r"\s*\d", text[word.end :])
        or re.search(r"\d\s*$", text[: word.start])
    ):
        return "also an ordinary word"
    if place and between(text, words, place).strip() in ("", "."):
        before = words[place - 1]
        if before.key in ("st", "saint"):
            return "proper name"
        if before.key in TITLES:
            return "" if place + 1 < len(words) and _before_name(text, words, place) else "surname"
        if between(text, words, place).strip() or not capital(before) or before.key in ADDRESSES:
            return ""
        opens = starts_sentence(text, words, place - 1)
        if before.key in people and not (opens and people[before.key][2]):
            return "surname"
        if before.key not in people and not opens and not before.text.isupper():
            return "surname"
    return ""


def _possessive_or_object(text: str, words: list[Word], place: int) -> tuple[str, str]:
    key = words[place].key
    if key == "him":
        return "her", "pronoun"
    if key == "hers":
        return "his", "possessive"
    alone = _stands_alone(text, words, place)
    if key == "her":
        return ("him", "pronoun") if alone else ("his", "possessive")
    return ("hers" if alone else "her"), "possessive"


def _stands_alone(text: str, words: list[Word], place: int) -> bool:
    """Whether her/his at ``place`` owns no noun phrase after it (her → him, his → hers). By the words around it."""
    key, before = words[place].key, words[place - 1].key if place else ""
    if place + 1 >= len(words):
        return True
    gap = between(text, words, place + 1)
    after = words[place + 1].key
    beyond = words[place + 2].key if place + 2 < len(words) and not between(text, words, place + 2).strip() else ""
    if gap.strip():
        # "his/her book", "her 3 children", 'her "friend"', "her (late) husband": the noun phrase still comes
        if gap.strip() == "/" and after in ("his", "her"):
            return _stands_alone(text, words, place + 1)
        if re.fullmatch(r"\s+[\"“‘'(\d][\"“‘'(\d.,\s]*", gap):
            return before in GIVE and bool(re.search(r"\d", gap))
        return True
    if after in ("or", "and") and beyond in ("his", "her"):
        return _stands_alone(text, words, place + 2)
    if after == "and" and beyond and place + 3 < len(words) and words[place + 3].key == "s":
        # "her and Tom's wedding"
        return not re.fullmatch("['’ʼ]", between(text, words, place + 3))
    if after == "own":
        return False
    if key == "his":
        if before == "of" and (after in FINITE or (after.endswith("ed") and (not beyond or beyond in NO_NOUN_PHRASE))):
            # "a friend of his called"; "of his tired friends" keeps its noun
            owned = [words[k].key for k in range(max(0, place - 4), place - 1)]
            return bool(DETERMINERS & {*owned} - {"the", "his", "her"}) or "one" in owned or "two" in owned
        if after in ("later", "earlier") and (not beyond or beyond in NO_NOUN_PHRASE):
            return True
        # "his is better", "a friend of his who"; adverbs and time words after "his" own nothing either
        return after in NO_NOUN_PHRASE - {
            "one",
            "no",
            "back",
            "home",
            "every",
            "out",
            "once",
            "near",
            "now",
            "then",
            "down",
            "later",
            "earlier",
        }
    if before in ("but", "except", "than") and place > 1 and words[place - 2].key in INDEFINITE:
        # "nobody but her knew" against "nobody but her brother knew"
        return after in FINITE or after in NO_NOUN_PHRASE or (after.endswith("ed") and beyond in NO_NOUN_PHRASE)
    if after == "home" and before in ("to", "in", "at", "from", "of", "into", "near", "inside", "outside", "around"):
        return False
    if after == "less" and before not in JUDGE:
        return beyond == "" or beyond in NO_NOUN_PHRASE
    if after in ("last", "next") and beyond in TIMES:
        return before not in ("in", "on", "at", "during", "for", "of", "since", "with", "by")
    if (
        after in ("one", "back", "home", "once", "then", "now", "upstairs", "inside", "outside")
        and beyond
        and beyond not in NO_NOUN_PHRASE
    ):
        # "her one regret", "her then husband", "her back pain" against "her back to", "called her once she"
        return before in CAUSE_OR_SEE | GIVE
    if key == "her" and after == "being" and starts_sentence(text, words, place):
        return False
    if before in APPOINT and after in ROLES:
        return beyond == "" or beyond in NO_NOUN_PHRASE
    if after in FINITE - FINITE_TOO and any(w.key in ("who", "that", "which") for w in words[max(0, place - 8) : place]):
        return True  # "the man who raised her taught her everything"
    if after in NO_NOUN_PHRASE:
        return not (after == "back" and before in ("hurt", "on", "broke", "behind"))
    if before in GIVE and after in GIFTS:
        return True
    if before in COSTS and words[place - 2 if place > 1 else 0].key not in ("the", "a") and after not in KIN_OR_SELF:
        # what is cost, owed, denied or wished is a bare noun: "cost her votes", "wished her happy birthday"
        return not PLURAL_PEOPLE.fullmatch(after) and after not in _gender_words()[0]
    if (
        before in GIVE
        and beyond == "to"
        and place + 3 < len(words)
        and after.endswith("s")
        and not PLURAL_PEOPLE.fullmatch(after)
    ):
        # "handed her forms to fill in" against "gave her keys to the guard"
        return words[place + 3].key not in DETERMINERS | {"him", "them", "me", "us", "you", "charity"} and not capital(
            words[place + 3]
        )
    if before in HELP_OR_SENSE and beyond in DETERMINERS and after not in _gender_words()[0] and after.isalpha():
        # "watched her paint the fence": no noun is followed by another noun's determiner
        return not PLURAL_PEOPLE.fullmatch(after) and after not in KIN_OR_SELF
    if before in CAUSE_OR_SEE and after in BARE_VERBS:
        return True
    if (
        before in CAUSE_OR_SEE or before in ("found", "caught", "kept", "left", "spotted", "stop", "stopped")
    ) and after.endswith("ing"):
        return beyond == "" or beyond in NO_NOUN_PHRASE
    if before in JUDGE and _is_adjective(after):
        return beyond == "" or beyond in NO_NOUN_PHRASE
    if (
        after in ("more", "less", "much", "too")
        and before in JUDGE
        and (_is_adjective(beyond) or beyond.endswith(("ing", "ed")))
    ):
        return place + 3 >= len(words) or ends_phrase(text, words, place + 2) or words[place + 3].key in NO_NOUN_PHRASE
    if before in ("prove", "proves", "proved", "treat", "treats", "treated", "do", "did") and after in (
        "right",
        "wrong",
        "bad",
        "good",
        "well",
        "fair",
        "unfair",
        "equal",
    ):
        return beyond == "" or beyond in NO_NOUN_PHRASE
    if before in JUDGE | {"named", "nicknamed", "name"} and capital(words[place + 1]):
        return True
    if after in ("very", "so", "really", "extremely", "well") or (
        after.endswith("ly")
        and after
        not in (
            "family",
            "early",
            "only",
            "elderly",
            "lovely",
            "daily",
            "friendly",
            "lonely",
            "ugly",
            "silly",
            "weekly",
            "monthly",
            "reply",
            "belly",
            "holy",
        )
    ):
        return (
            beyond == ""
            or beyond in NO_NOUN_PHRASE
            or (before in JUDGE and _is_adjective(beyond))
            or beyond in ("much", "well")
        )
    if after in ("hard", "fast", "president", "chair") and not beyond and before.endswith("ed"):
        return True
    beside = before in PREPOSITIONS_OF_PLACE or (place > 1 and words[place - 2].key == "next")
    return beside and after.endswith("ed") and (beyond == "" or beyond in NO_NOUN_PHRASE)


def _finished(text: str, words: list[Word], left: list[Left]) -> Swapped:
    changes = [Change(w.start, w.end, w.text, w.new, w.kind) for w in words if w.changed and w.new != w.text]
    changes += _articles(text, words)
    changes.sort()
    return Swapped(edited(text, changes), changes, sorted(left))


def _articles(text: str, words: list[Word]) -> list[Change]:
    """a ↔ an before a word that changed its first sound."""
    made = []
    for place, word in enumerate(words[:-1]):
        after = words[place + 1]
        if word.key not in ("a", "an") or not after.changed or between(text, words, place + 1).strip():
            continue
        right = "an" if vowel_sound(after.new) else "a"
        if (word.key == "an") == vowel_sound(after.text) and right != word.key:
            made.append(Change(word.start, word.end, word.text, like(word.text, right, shouted(words, place)), "article"))
    return made


def vowel_sound(word: str) -> bool:
    low = word.lower()
    return low.startswith(SILENT_H) or (low[:1] in "aeiou" and not low.startswith(YOU_SOUND))


# -- origin and religion ------------------------------------------------------------------------------------------


def swap_groups(text: str, rows: tuple[dict[str, str], dict[str, str]], *, names: bool = True) -> Swapped:
    """Two origins or two religions exchanged: ``rows`` are theirs in the list."""
    one, other = rows
    people = origin_names(one.get("names", ""), other.get("names", "")) if names else {}
    columns = [name for name in one if name not in ("group", "names")]
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for a, b in ((one, other), (other, one)):
        for column in columns:
            if a[column] and b[column]:
                table.setdefault(a[column].lower(), {})[column] = (a[column], b[column])
    words = words_of(text, [word for word in table if not word.isalpha()])
    left: list[Left] = []
    for place, word in enumerate(words):
        if word.key in people and capital(word):
            word.new, word.kind = like(word.text, people[word.key][0], shouted(words, place)), "name"
        elif word.key in table:
            forms = table[word.key]
            column = next(iter(forms))
            if "person" in forms and len(forms) > 1:
                column = "person" if _is_a_noun(text, words, place) else "adjective"
            old, new = forms.get(column, next(iter(forms.values())))
            if old[:1].isupper() and not capital(word):
                left.append(Left(word.start, word.end, word.text, "not the group: no capital"))
                continue
            kind = "demonym" if column in ("adjective", "person", "people") else column
            word.new, word.kind = (new if old[:1].isupper() and not word.text.isupper() else like(word.text, new)), kind
    return _finished(text, words, left)


def _is_a_noun(text: str, words: list[Word], place: int) -> bool:
    """ "a Moroccan", "the Muslim who": nothing that it could describe follows, and an article precedes."""
    before = words[place - 1].key if place else ""
    after = words[place + 1].key if not ends_phrase(text, words, place) else ""
    if before not in ("a", "an", "the", "every", "each", "this", "that", "another", "one", "young", "old", "any", "no"):
        return False
    return (
        after == ""
        or after in NO_NOUN_PHRASE
        or after.endswith("ed")
        or after in ("said", "came", "went", "won", "left", "works", "says", "lives")
    )
