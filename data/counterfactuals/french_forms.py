"""French word forms: nouns and adjectives of both genders and numbers, elision, determiners."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

from teachfair.data.counterfactuals.texts import read_list

ELIDED = (
    "l'", "d'", "qu'", "n'", "s'", "m'", "t'", "j'", "c'", "jusqu'", "lorsqu'", "puisqu'", "quoiqu'", "quelqu'", "presqu'",
)  # fmt: skip
FULL = {"l'": "la", "d'": "de", "qu'": "que", "jusqu'": "jusque", "lorsqu'": "lorsque", "puisqu'": "puisque",
        "quoiqu'": "quoique"}  # fmt: skip

# h aspiré: no elision before these beginnings
H_ASPIRE = (
    "héros", "hongrois", "hollandais", "handicap", "harcel", "hockey", "handball", "haut", "haï", "hardi", "hargneu",
    "hideu", "honteu", "huit", "hussard", "halt", "hautain", "hacker", "hippie", "hugo", "hasard",
)  # fmt: skip


class Noun(NamedTuple):
    """A group noun's counterpart, its kind, and the gender and number of the form it was found under."""

    other: str
    kind: str
    gender: str
    plural: bool


def vowel(word: str) -> bool:
    """Whether le/la/de/que elide before this word: a vowel or a mute h."""
    low = unicodedata.normalize("NFC", word).lower()
    if low.startswith("h"):
        return not low.startswith(H_ASPIRE) or low.startswith("héroï")
    if low.startswith(("oui", "onze", "ouistiti", "yaourt", "un-")):
        return False
    if low.startswith("y"):
        return len(low) > 1 and low[1] not in "aeiouéèê"
    base = unicodedata.normalize("NFD", low[:1])[:1]
    return base in set("aeiouœæ")


def plural_of(word: str) -> str:
    if word.endswith(("s", "x", "z")):
        return word
    if word.endswith(("eau", "eu")):
        return word + "x"
    if word.endswith("al") and word not in ("fatal", "banal", "natal"):
        return word[:-2] + "aux"
    return word + "s"


def feminine_of(masculine: str) -> str:
    """The regular feminine of a masculine singular adjective or participle."""
    for ending, feminine in (
        ("eux", "euse"), ("if", "ive"), ("er", "ère"), ("ien", "ienne"), ("éen", "éenne"), ("yen", "yenne"), ("el", "elle"),
        ("et", "ette"),
    ):  # fmt: skip
        if masculine.endswith(ending):
            return masculine.removesuffix(ending) + feminine
    return masculine + "e"


@cache
def nouns() -> dict[str, Noun]:
    """Every form of every group noun."""
    table: dict[str, Noun] = {}

    def enter(male: str, female: str, kind: str, direction: str, plural: bool) -> None:
        if direction in ("both", "m>f"):
            table.setdefault(male, Noun(female, kind, "m", plural))
        if direction in ("both", "f>m"):
            table.setdefault(female, Noun(male, kind, "f", plural))

    for row in read_list("french_gender"):
        male, female = row["male"], row["female"]
        enter(male, female, row["kind"], row["direction"], False)
        if row["plural"] == "-":
            continue
        if row["plural"]:
            many_m, many_f = row["plural"].split("/")
        else:
            many_m, many_f = plural_of(male), plural_of(female)
        if many_m != male:
            enter(many_m, many_f, row["kind"], row["direction"], True)
        elif row["direction"] in ("both", "f>m"):
            table.setdefault(many_f, Noun(male, row["kind"], "f", True))
    return table


@cache
def epicenes() -> dict[str, bool]:
    """Nouns with one form for all genders → whether the form is the plural."""
    table = {}
    for row in read_list("french_epicene"):
        table[row["noun"]] = False
        table[plural_of(row["noun"])] = True
    return table


@cache
def fixed_gender() -> dict[str, str]:
    table = {}
    for row in read_list("french_fixed_gender"):
        table[row["noun"]] = row["gender"]
        table[plural_of(row["noun"])] = row["gender"]
    return table


@cache
def adjectives() -> dict[tuple[str, str], tuple[str, bool]]:
    """(form, gender of that form) → (the other gender's form, whether plural). "heureux" is both numbers: singular first."""
    table: dict[tuple[str, str], tuple[str, bool]] = {}
    for row in read_list("french_adjectives"):
        male = row["masculine"]
        female = row["feminine"] or feminine_of(male)
        if male == female:
            continue
        table.setdefault((male, "m"), (female, False))
        table.setdefault((female, "f"), (male, False))
        table.setdefault((plural_of(male), "m"), (plural_of(female), True))
        table.setdefault((plural_of(female), "f"), (plural_of(male), True))
    for male, female in (("bel", "belle"), ("nouvel", "nouvelle"), ("vieil", "vieille"), ("fol", "folle")):
        table[male, "m"] = (female, False)
    table["tous", "m"], table["toutes", "f"] = ("toutes", True), ("tous", True)
    table["tout", "m"], table["toute", "f"] = ("toute", False), ("tout", False)
    return table


# participles and adjectives that need no list: f → m and m → f by their ending
_BY_ENDING = {
    "f": (("ées", "és"), ("ée", "é"), ("euses", "eux"), ("euse", "eux"), ("ives", "ifs"), ("ive", "if"),
          ("iennes", "iens"), ("ienne", "ien"), ("ielles", "iels"), ("ielle", "iel"), ("uelles", "uels"),
          ("uelle", "uel"), ("nnelles", "nnels"), ("nnelle", "nnel")),
    "m": (("és", "ées"), ("é", "ée"), ("eux", "euse"), ("ifs", "ives"), ("if", "ive"), ("iens", "iennes"),
          ("ien", "ienne"), ("iels", "ielles"), ("iel", "ielle"), ("uels", "uelles"), ("uel", "uelle"),
          ("nnels", "nnelles"), ("nnel", "nnelle")),
}  # fmt: skip
# what may stand after être and agrees by its ending, beyond the list: longest ending first. "-ante", "-ue" … also end verbs
# and nouns, so these hold of predicates only
_PREDICATE_ENDINGS = {
    "m": (("ant", "ante"), ("ent", "ente"), ("and", "ande"), ("ond", "onde"), ("ard", "arde"), ("ert", "erte"),
    ("ort", "orte"),
          ("it", "ite"), ("at", "ate"), ("ain", "aine"), ("ein", "eine"), ("in", "ine"), ("al", "ale"),
          ("ois", "oise"), ("ais", "aise"), ("is", "ise"), ("us", "use"), ("i", "ie"), ("u", "ue")),
    "f": (("ante", "ant"), ("ente", "ent"), ("ande", "and"), ("onde", "ond"), ("arde", "ard"), ("erte", "ert"),
    ("aite", "ait"),
          ("aine", "ain"), ("eine", "ein"), ("ine", "in"), ("ale", "al"), ("oise", "ois"), ("aise", "ais"), ("ise", "is"),
          ("ie", "i"), ("ue", "u")),
}  # fmt: skip
NOT_PREDICATES = frozenset(
    """quand loin tard tôt nous vous besoin soin juin coin foin témoin parmi autrui demi sinon sauf selon hélas dessus lors
    mal pas plus puis mais jamais dans sous sans dessus dessous hors vers chez près loin après très exprès lui qui ici
    aussi ainsi parmi quasi oui peu du au vu oint point souvent seulement maintenant cependant autant avant devant
    durant pendant pourtant tant quant devant comment enfin soudain demain bien combien rien afin sitôt midi minuit
    ceci celui mardi jeudi lundi samedi vendredi fils bis fois mois trois cas temps corps pays jus abus refus dos
    bras tandis depuis toujours volontiers ailleurs dehors debout pâle sale mâle ovale jeune aise trente quarante
    cinquante soixante vie pie partie envie copie photographie magie marie rue vue grue statue tenue avenue venue-là
    argent accident moment vent dent gens agent enfant parent client président étudiant instant amant géant savant
    restaurant brillamment tout nu été état droit fait fruit esprit nuit lit bruit appétit hasard canard regard
    retard dollar chat achat combat débat résultat contrat main demain pain train bain vin matin jardin chemin
    cousin voisin animal journal cheval hôpital métal signal trial euro ami ennemi mari merci parti souci pari cri
    pli défi ski génie folie aine semaine douzaine vingtaine dizaine trentaine centaine peine veine haleine reine
    machine cuisine piscine origine médecine routine gendarmerie mairie prise crise mise chemise surprise valise
    église entreprise bêtise aide mode""".split()
)
NOT_ADJECTIVES = frozenset(
    """elle elles celle celles quelle quelles laquelle lesquelles année années journée soirée idée idées armée musée lycée
    employée invitée bien rien combien bel quel tel eux ceux deux mieux été qualité société liberté biens biennes
    santé beauté bonté côté marché café hôtel appel ciel miel sel duel archive arrive arrivent suive vive lien chien
    soutien euro bébé pourtant avant devant pendant durant autant maintenant cependant curé olive prive cultive
    motive salive dérive rive creuse lesbienne lesbiennes""".split()
)
# also a form of a verb: "la directrice présente le projet", "le directeur dit". After a noun they are not taken for
# adjectives; after être they are.
ALSO_VERBS = frozenset(
    """présente présentes prête prêtes active complète sèche porte montre lasse cultive fasse supporte dit écrit
    fait conduit produit construit détruit traduit instruit réduit introduit séduit cuit craint plaint peint
    atteint rejoint contraint éteint astreint restreint joint teint interdit contredit prédit maudit souscrit
    inscrit décrit mis remis admis promis soumis permis commis omis pris repris appris surpris entrepris compris
    conquis acquis court fut vit but crut lut sut voulut devenu vainc convainc défend attend entend rend descend pend
    tond fond tord mord""".split()
)


def adjective(key: str, gender: str, plural: bool | None, productive: bool = True) -> str:
    """The other gender's form of an adjective or participle found in ``gender``; "" if it is none of that gender.

    ``plural``: the number it must have; None: any. Same forms in both numbers ("heureux") follow ``plural``.
    """
    found = adjectives().get((key, gender))
    if found:
        other, many = found
        if key.endswith(("x", "s")) and gender == "m" and not many:
            # one form for both numbers: heureux, gros, français
            return plural_of(other) if plural else other
        if plural is None or many == plural:
            return other
        return ""
    if not productive or key in NOT_ADJECTIVES or len(key) < 4 or key.endswith(("tienne", "vienne")):
        return ""
    for mine, other in _BY_ENDING[gender]:
        if key.endswith(mine):
            many = mine.endswith("s") or (mine == "eux" and bool(plural))
            if plural is not None and many != plural:
                return ""
            made = key.removesuffix(mine) + other
            return made + "s" if mine == "eux" and plural else made
    return ""


def predicate(key: str, gender: str, plural: bool | None) -> str:
    """As :func:`adjective`, of a word that stands after être: its ending alone may tell that it agrees."""
    made = adjective(key, gender, plural)
    if made or key in NOT_PREDICATES or key in NOT_ADJECTIVES or len(key) < 4 or key.endswith(("tienne", "vienne")):
        return made
    if has_one_form(key) or not key.isalpha() or key.endswith("ment"):
        return ""
    many = plural and key.endswith("s") and not key.endswith(("ois", "ais"))
    if plural and not many and not key.endswith(("ois", "ais")):
        return ""
    single = key[:-1] if many else key
    if single in NOT_PREDICATES:
        return ""
    for mine, other in _PREDICATE_ENDINGS[gender]:
        if single.endswith(mine):
            made = single.removesuffix(mine) + other
            return made + "s" if plural and not made.endswith("s") else made
    return ""


# peoples that no language is named after: "le Marocain" is a person
NO_LANGUAGE = frozenset(
    """africain européen maghrébin américain canadien algérien tunisien marocain sénégalais malien ivoirien nigérian
    mexicain brésilien gitan parisien marseillais lyonnais irakien iranien israélien palestinien syrien libyen
    égyptien cubain argentin chilien colombien péruvien camerounais congolais haïtien australien autrichien belge
    païen protestant""".split()
)
MORE_PEOPLES = tuple(
    """anglais norvégien suédois danois finlandais irlandais écossais néerlandais hongrois libanais camerounais congolais
    péruvien brésilien chilien argentin colombien cubain palestinien syrien irakien iranien israélien libyen
    vietnamien coréen égyptien éthiopien haïtien ukrainien australien autrichien arménien roumain mexicain parisien
    marseillais lyonnais normand provençal païen protestant québécois gabonais rwandais togolais béninois ghanéen
    kényan bolivien pakistanais afghan afro-américain tibétain mongol cambodgien laotien indonésien malaisien
    philippin jordanien koweïtien saoudien yéménite tzigane gitan""".split()
)


@cache
def peoples() -> dict[str, tuple[str, str, bool]]:
    """Demonyms and adherents as nouns: form → (the other gender's form, its gender, whether plural)."""
    table: dict[str, tuple[str, str, bool]] = {}
    more = (
        ("africain", ""),
        ("européen", ""),
        ("maghrébin", ""),
        ("noir", ""),
        ("blanc", "blanche"),
        *((word, "") for word in MORE_PEOPLES),
    )
    pairs = [
        (row["masculine"], row["feminine"]) for name in ("french_origins", "french_religions") for row in read_list(name)
    ]
    for male, female in (*pairs, *more):
        female = female or feminine_of(male)
        if male == female:
            continue
        colour = male in ("noir", "blanc")
        if not colour:
            table.setdefault(male, (female, "m", False))
        table.setdefault(female, (male, "f", False))
        if plural_of(male) != male:
            table.setdefault(plural_of(male), (plural_of(female), "m", True))
        table.setdefault(plural_of(female), (plural_of(male), "f", True))
    return table


# Determiners that tell gender: form → (gender, the other gender's form). le/la/l', du, au are made by sound, in french.py
DETERMINERS = {
    "un": ("m", "une"), "une": ("f", "un"), "ce": ("m", "cette"), "cet": ("m", "cette"), "cette": ("f", "ce"),
    "mon": ("m", "ma"), "ma": ("f", "mon"), "ton": ("m", "ta"), "ta": ("f", "ton"), "son": ("m", "sa"), "sa": ("f", "son"),
    "quel": ("m", "quelle"), "quelle": ("f", "quel"), "quels": ("m", "quelles"), "quelles": ("f", "quels"),
    "aucun": ("m", "aucune"), "aucune": ("f", "aucun"), "nul": ("m", "nulle"), "nulle": ("f", "nul"),
    "certains": ("m", "certaines"), "certaines": ("f", "certains"), "certain": ("m", "certaine"),
    "certaine": ("f", "certain"), "tel": ("m", "telle"), "telle": ("f", "tel"),
}  # fmt: skip
ARTICLES = frozenset({"le", "la", "l'", "du", "au"})
NO_GENDER = frozenset(
    """les des ces mes tes ses leur leurs notre nos votre vos aux chaque plusieurs quelques deux trois quatre cinq
    six sept huit neuf dix cent mille""".split()
)
BEFORE_NOUNS = frozenset(
    """jeune jeunes autre autres brave braves pauvre pauvres célèbre célèbres même mêmes honnête honnêtes propre propres
    simple simples futur triste future véritable véritables illustre ex vrai vraie riche sale sales drôle drôles""".split()
)
ONE_FORM = frozenset(
    """jeune célèbre drôle aimable timide calme sympathique modeste responsable efficace autonome riche pauvre
    malade triste honnête rapide faible brave fidèle sensible sage tranquille sincère utile inutile jaloux
    tendre maigre mince robuste habile agile fragile docile hostile immobile libre simple humble noble souple
    ferme grave digne ivre sobre bizarre aveugle veule pâle sale drôle crédule ridicule lâche riche moche russe
    belge solidaire célibataire solitaire volontaire populaire""".split()
)


def has_one_form(key: str) -> bool:
    """Whether this is an adjective that is the same for all genders ("honnête", "responsable", "sympathique")."""
    single = key.removesuffix("s")
    return single in ONE_FORM or (len(single) > 5 and single.endswith(("able", "ible", "ique", "iste")))


PREPOSITIONS = frozenset(
    """de d' à avec pour chez sans selon entre contre sur sous vers envers devant derrière après avant par malgré
    parmi comme sauf excepté dans en du des au aux""".split()
)


def determiner(key: str, target: str, following: str) -> str:
    """The determiner ``key`` for a noun phrase of gender ``target`` whose next word is ``following``; "" if it has none."""
    if key in DETERMINERS:
        gender, other = DETERMINERS[key]
        made = key if gender == target else other
        if key in ("mon", "ton", "son", "ma", "ta", "sa"):
            made = key[0] + ("on" if target == "m" or vowel(following) else "a")
        if key in ("ce", "cet", "cette"):
            made = "cette" if target == "f" else "cet" if vowel(following) else "ce"
        return made
    return ""


def before_vowel(masculine: str, following: str) -> str:
    """beau → bel, nouveau → nouvel, vieux → vieil before a vowel, and back."""
    pairs = {"beau": "bel", "nouveau": "nouvel", "vieux": "vieil"}
    if vowel(following):
        return pairs.get(masculine, masculine)
    return next((long for long, short in pairs.items() if short == masculine), masculine)
