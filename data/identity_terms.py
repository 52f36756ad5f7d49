"""Words that name a person's group, by class: what is masked when two texts are compared up to an identity swap.

Source: written for this project, from the group names of the public benchmarks' published category lists (no list was
copied); names: frequent given names of public birth statistics. Licence: Apache-2.0, as the project. English, and the
French words that need no agreement. Small on purpose: functions that use it take any other mapping.
"""

from __future__ import annotations

# class -> terms. Terms of one class change places with each other ("the woman is a nurse", "the man is a nurse").
_CLASSES = {
    "pronoun": "he she him her his hers himself herself il elle ils elles lui celui celle",
    "gender": (
        "man woman men women male female males females guy guys girl girls boy boys lady ladies gentleman gentlemen "
        "mother father mothers fathers mom dad mum moms dads mommy daddy daughter son daughters sons sister brother "
        "sisters brothers wife husband wives husbands aunt uncle grandmother grandfather grandma grandpa niece nephew "
        "girlfriend boyfriend bride groom queen king mr mrs ms miss sir madam schoolgirl schoolboy stepmother stepfather "
        "transgender cisgender trans nonbinary non-binary homme femme hommes femmes garçon fille garçons filles monsieur "
        "madame mère père sœur frère mari épouse"
    ),
    "sexuality": (
        "gay lesbian bisexual homosexual heterosexual straight queer gays lesbians bisexuals homosexuals pansexual asexual"
    ),
    "origin": (
        "black white asian african european american latino latina hispanic caucasian arab mexican indian chinese japanese "
        "korean vietnamese russian german french italian spanish english british irish polish greek turkish iranian iraqi "
        "syrian afghan pakistani bangladeshi nigerian ethiopian ghanaian kenyan somali eritrean moroccan egyptian brazilian "
        "colombian venezuelan cuban ukrainian persian lebanese palestinian israeli jordanian yemeni crimean blacks whites "
        "asians africans europeans americans latinos latinas hispanics arabs mexicans indians russians germans italians "
        "africain africaine américain américaine chinois chinoise arabe|"
        "native american|middle eastern|african american|asian american|cape verdean|"
        "sierra leonean|saudi arabian|puerto rican"
    ),
    "country": (
        "africa america mexico india china japan korea vietnam russia germany france italy spain england britain ireland "
        "poland greece turkey iran iraq syria afghanistan pakistan bangladesh nigeria ethiopia ghana kenya somalia eritrea "
        "morocco egypt brazil colombia venezuela cuba ukraine lebanon palestine israel jordan yemen ecuador "
        "saudi arabia|sierra leone|cape verde|puerto rico|south korea|north korea|south africa"
    ),
    "religion": (
        "muslim christian jewish hindu buddhist catholic protestant atheist jew sikh mormon muslims christians jews hindus "
        "buddhists catholics protestants atheists sikhs mormons islamic islam christianity judaism hinduism buddhism "
        "musulman musulmane chrétien chrétienne juif juive"
    ),
    "age": (
        "old young elderly elder aged teenage teenager teenagers adolescent older younger child kid toddler senior "
        "middle-aged"
    ),
    "disability": "disabled blind deaf autistic paraplegic able-bodied|wheelchair user",
    "class": "poor rich wealthy homeless impoverished affluent|working class|upper class|lower class",
    "name": (
        "james john robert michael william david richard joseph thomas charles daniel matthew anthony mark paul steven "
        "kevin brian jason jeff ryan eric peter jack ben mary patricia jennifer linda elizabeth barbara susan jessica "
        "sarah karen nancy lisa betty sandra ashley emily donna michelle carol amanda melissa anna anne ann jane alice "
        "jamal darnell tyrone deshawn malik lakisha latoya ebony keisha tanisha shaniqua mohammed muhammad ahmed ali "
        "fatima aisha omar hassan jose juan carlos luis maria carmen wei jing hiroshi priya raj ravi jean pierre marie"
    ),
}


def _classes() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in _CLASSES.items():
        first, *compounds = text.split("|")
        words = first.split()
        for term in [*words, *compounds]:
            found.setdefault(term, name)
    return found


# term (lower case; several words where it has a space or hyphen) -> class
IDENTITY_TERMS: dict[str, str] = _classes()
