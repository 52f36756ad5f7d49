"""Counterfactual texts: known answers, the inverse, what is left, and that no text breaks them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teachfair.alignment.fairness_reward import FairnessReward
from teachfair.data.counterfactuals import AXES, Swapped, groups_of, swap
from teachfair.data.counterfactuals.parsing import ParsedWord, spacy_parser
from teachfair.data.counterfactuals.rows import counterfactual_columns, left_counts, with_counterfactuals
from teachfair.data.counterfactuals.texts import LISTS, name_pairs, origin_names, read_list
from teachfair.data.swapping import swap_mapping
from teachfair.errors import ConfigError, DataError, InputError

ROOT = Path(__file__).resolve().parent.parent.parent


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem + "_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


BENCHMARK = module(ROOT / "benchmarks" / "counterfactuals.py")
BY_RULE = module(ROOT / "tests" / "data" / "counterfactuals_by_rule.py")


# -- known answers ---------------------------------------------------------------------------------------------------

# (wrong, left undecided) of each part; a mend lowers them, a regression is red
KNOWN = {
    ("en", "held-out"): (5, 2), ("en", "held-out 1, mended on since"): (3, 1),
    ("en", "in-sample by hand"): (3, 0), ("en", "in-sample by rule"): (0, 0),
    ("fr", "held-out"): (16, 5), ("fr", "held-out 1, mended on since"): (0, 3),
    ("fr", "in-sample by hand"): (0, 3), ("fr", "in-sample by rule"): (0, 0),
}  # fmt: skip


@pytest.mark.parametrize("lang", ["en", "fr"])
def test_no_more_known_answers_are_wrong_than_are_published(lang: str) -> None:
    found = Counter((row["part"], row["outcome"]) for row in BENCHMARK.judged(lang))
    assert {part: (found[part, "wrong"], found[part, "left"]) for part in BENCHMARK.PARTS} == {
        part: KNOWN[lang, part] for part in BENCHMARK.PARTS
    }, "the rates moved: run benchmarks/counterfactuals.py --write and say why in CHANGELOG.md"


def test_the_published_error_rates_are_what_the_command_prints() -> None:
    document = (ROOT / "docs" / "counterfactuals.md").read_text(encoding="utf-8")
    assert BENCHMARK.published(document) == BENCHMARK.tables().strip()


@pytest.mark.shared
def test_hardly_a_pronoun_is_wrong_in_sentences_that_others_wrote(shared: Path) -> None:
    found = BENCHMARK.winobias(shared / "data" / "winobias")
    assert sum(n for n, _ in found.values()) == 3044
    assert found["her"] == (832, 17)
    assert sum(wrong for _, wrong in found.values()) == 18


@pytest.mark.parametrize("lang", ["en", "fr"])
def test_the_known_answers_are_at_least_400_with_100_held_out_and_none_twice(lang: str) -> None:
    rows = BENCHMARK.sentences(lang)
    assert len(rows) >= 400
    assert sum(row["part"] == "held-out" for row in rows) >= 100
    assert not [text for text, n in Counter(row["text"] for row in rows).items() if n > 1]


@pytest.mark.parametrize("lang", ["en", "fr"])
def test_the_rows_by_rule_are_what_their_script_makes(lang: str) -> None:
    made = [(row["class"], row["text"], row["expected"]) for row in BY_RULE.rows(lang)]
    kept = [(r["class"], r["text"], r["expected"]) for r in BENCHMARK.sentences(lang) if r["part"] == "in-sample by rule"]
    assert made == kept


# -- the inverse -----------------------------------------------------------------------------------------------------

EN_SUBJECTS = ["The actress", "Emily", "My uncle", "A policeman", "An heiress", "THE QUEEN", "Our mother-in-law", "Omar"]
EN_PREDICATES = [
    ("female", "lost her keys"), ("male", "lost his keys"), ("any", "is late"), ("female", "blamed herself"),
    ("male", "said that he knew"), ("female", "thinks the bag is hers"), ("any", "told her that it rained"),
]  # fmt: skip
FR_SENTENCES = [
    "L'infirmière est très compétente.", "Le directeur est arrivé hier.", "Un acteur italien est venu.", "Il est parti.",
    "Je parle au nouveau directeur.", "Le sac de la vendeuse est ouvert.", "Marie est fatiguée et heureuse.",
    "S'il vient, je pars.", "Cette actrice est connue.", "Le vieil homme dort.", "Elle a été nommée présidente.",
    "L’héroïne est morte.", "Toutes les étudiantes sont là.", "Mon cousin est un garçon discret.",
    "C'est elle qui décide.", "Paul se souvient d'elle.", "La boulangère dit bonjour.", "Ses fils sont grands.",
    "JULIE EST CONTENTE.", "Le frère d'Alice est avocat.", "M. Petit est présent.", "Marie dort, je la trouve belle.",
    "Où est passée la gardienne ?", "L'institutrice que tu as vue est mariée.", "Il se peut qu'elle vienne.",
    "Ni lui ni elle ne mentent.", "La joueuse, blessée au genou, est sortie.", "Il est considéré comme très doué.",
    "Y a-t-il une infirmière ici ?", "Le président sortant a été battu.", "Tu es contente, Marie.",
]  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(EN_SUBJECTS), st.sampled_from(EN_PREDICATES)), min_size=1, max_size=4),
    st.sampled_from([" ", "\n", "\u00a0", "  "]),
)
def test_swapping_english_twice_gives_the_text_back(parts: list[tuple[str, tuple[str, str]]], space: str) -> None:
    text = space.join(f"{subject} {predicate[1]}." for subject, predicate in parts)
    once = swap(text, "en").text
    assert once != text
    assert swap(once, "en").text == text


@settings(deadline=None)
@given(st.sampled_from(FR_SENTENCES), st.sampled_from(["'", "’"]), st.sampled_from([" ", "\u00a0"]))
def test_swapping_french_twice_gives_the_text_back(text: str, apostrophe: str, space: str) -> None:
    text = text.replace("'", apostrophe).replace("’", apostrophe)
    text = f"{text.rstrip(' ?.')}{space}!"
    once = swap(text, "fr").text
    assert once != text
    back = swap(once, "fr").text
    if apostrophe not in once:
        # "le héros" keeps no trace of how "l’héroïne" was spelled
        back = back.replace("'", apostrophe)
    assert back == text


# -- definitional, fixed, left ----------------------------------------------------------------------------------------

DEFINITIONAL = {
    "en": ["pregnant", "prostate", "menstruation", "Hysterectomy", "GAVE BIRTH", "ovarian", "vasectomy"],
    "fr": ["enceinte", "grossesse", "prostate", "menstruations", "Ménopause", "SAGE-FEMME", "fausse couche"],
}
AROUND = {
    "en": ["She", "her", "the actress", "Emily", "is", "and", "his", "."],
    "fr": ["Elle", "la", "l'actrice", "Marie", "est", "et", "contente", ".", "de"],
}


@settings(deadline=None)
@given(st.sampled_from(["en", "fr"]), st.data())
def test_a_definitional_word_never_changes_and_is_counted(lang: str, data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(DEFINITIONAL[lang]))
    before = data.draw(st.lists(st.sampled_from([w for w in AROUND[lang] if w not in ("la", "l'actrice")]), max_size=4))
    after = data.draw(st.lists(st.sampled_from(AROUND[lang]), max_size=4))
    text = " ".join([*before, "is" if lang == "en" else "est", word, *after])
    whole = swap(text, lang)
    assert whole.text == text
    assert whole.changes == []
    assert any(left.word == word and left.reason == "definitional" for left in whole.left)
    only = swap(text, lang, definitional="word")
    assert only.text.count(word) == text.count(word)
    assert all(text[left.start : left.end] == left.word for left in only.left)


def test_the_word_option_swaps_the_rest_of_a_definitional_text() -> None:
    assert swap("She is pregnant.", "en", definitional="word").text == "He is pregnant."
    assert swap("She is pregnant.", "en").text == "She is pregnant."


@pytest.mark.parametrize(
    ("lang", "text", "word", "reason"),
    [
        ("en", "English is our mother tongue.", "mother tongue", "fixed expression"),
        ("en", "They asked us to man the desk.", "man", "verb"),
        ("en", "Dr. Thomas is here.", "Thomas", "surname"),
        ("en", "Hope is good.", "Hope", "also an ordinary word"),
        ("fr", "Les droits de l'homme.", "droits de l'homme", "generic"),
        ("fr", "La soupe est prête, elle est chaude.", "elle", "pronoun of a thing, or of a noun of fixed gender"),
        ("fr", "Jean-Luc dort.", "Jean", "compound name"),
        ("fr", "Je suis contente.", "contente", "speaker or addressee"),
    ],
)
def test_what_names_a_group_and_stays_is_left_with_its_reason(lang: str, text: str, word: str, reason: str) -> None:
    found = swap(text, lang)
    assert found.text == text
    assert (word, reason) in [(left.word, left.reason) for left in found.left]
    assert len({left.reason for left in found.left}) == 1


DOUBTFUL = [
    ("en", "Zorblax felt good as he woke.", "Zorblax", "a name that no list knows", "Zorblax felt good as she woke."),
    ("en", "He gave her keys.", "her", "her before a bare plural", "She gave his keys."),
    ("fr", "Julie a lavé sa robe, elle est propre.", "elle", "il or elle may mean a thing",
     "Thomas a lavé sa robe, il est propre."),
    ("fr", "Paul voit Marie et la salue.", "la", "le or la after a conjunction, article or pronoun",
     "Alice voit Pierre et la salue."),
    ("fr", "Zorblax dit qu'il viendra.", "Zorblax", "a name that no list knows", "Zorblax dit qu'elle viendra."),
]  # fmt: skip


@pytest.mark.parametrize(("lang", "text", "word", "reason", "guess"), DOUBTFUL)
def test_a_text_in_doubt_is_left_whole_unless_a_guess_is_asked_for(
    lang: str, text: str, word: str, reason: str, guess: str
) -> None:
    left = swap(text, lang)
    assert (left.text, left.changes, left.undecided) == (text, [], True)
    assert (word, f"unsure: {reason}") in [(item.word, item.reason) for item in left.left]
    guessed = swap(text, lang, unsure="swap")
    assert (guessed.text, guessed.undecided) == (guess, False)
    assert guessed.doubts == left.doubts


def test_with_names_kept_a_name_is_no_doubt() -> None:
    assert swap("Zorblax felt good as he woke.", "en", names=False).text == "Zorblax felt good as she woke."


# -- form --------------------------------------------------------------------------------------------------------------

ODD = st.lists(
    st.one_of(
        st.sampled_from(
            "she her his him hers l' d’ qu' s' la le de du à au elle il lui Marie Paul infirmière héros M. Mme est a été "
            "et , . ’ ' - \u00a0 "
            "enceinte e\u0301le\u0300ve L’ACTRICE \ud800 🙂 ‑ grand-mère une actrice A an".split(" ")
        ),
        st.text(max_size=3),
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(ODD, st.sampled_from([" ", "", "\u00a0", "-"]), st.sampled_from(["en", "fr"]), st.sampled_from(AXES))
@example([], "", "en", "gender")
@example(["\ud800", "her"], " ", "en", "gender")
def test_every_text_has_an_answer_whose_changes_make_it(words: list[str], space: str, lang: str, axis: str) -> None:
    text = space.join(words)
    found = swap(text, lang, axis, groups=None if axis == "gender" else groups_of(axis, lang)[:2])
    made, at = "", 0
    for change in found.changes:
        assert change.start >= at
        assert text[change.start : change.end] == change.old
        assert change.kind
        made, at = made + text[at : change.start] + change.new, change.end
    assert made + text[at:] == found.text
    assert swap(text, lang, axis, groups=None if axis == "gender" else groups_of(axis, lang)[:2]) == found


@pytest.mark.parametrize(
    ("lang", "text", "swapped"),
    [
        ("en", "", ""),
        ("en", "SHE SAID: “HIS’ AND HERS”", "HE SAID: “HERS’ AND HIS”"),
        ("en", "Mary’s\u00a0son", "John’s\u00a0daughter"),
        ("en", "her brother‑in‑law", "his sister‑in‑law"),
        ("fr", "L’ACTRICE EST VENUE.", "L’ACTEUR EST VENU."),
        ("fr", "une infirmie\u0300re gentille", "un infirmier gentil"),
        ("fr", "« L’infirmière »\u00a0!", "« L’infirmier »\u00a0!"),
        ("fr", "À la reine", "Au roi"),
        ("fr", "sa grand‑mère", "son grand‑père"),
    ],
)
def test_capitals_apostrophes_hyphens_accents_and_spaces_are_kept(lang: str, text: str, swapped: str) -> None:
    assert swap(text, lang).text == swapped


def test_a_change_says_its_place_its_words_and_its_kind() -> None:
    found = swap("Elle voit l'infirmière.", "fr")
    assert [(c.start, c.end, c.old, c.new, c.kind) for c in found.changes] == [
        (0, 4, "Elle", "Il", "pronoun"), (12, 22, "infirmière", "infirmier", "occupation"),
    ]  # fmt: skip


def test_long_texts_take_time_in_proportion_to_their_length() -> None:
    text = "La directrice dit qu'il est content et elle la voit. Le projet avance. " * 700
    assert swap(text, "fr").text.startswith("Le directeur dit qu'elle est contente")


# -- origin and religion -----------------------------------------------------------------------------------------------


def test_names_of_origin_change_place_within_a_gender() -> None:
    table = origin_names("french", "maghreb")
    assert table["fatima"] == ("Marie", "f")
    assert swap("Fatima and Pierre met.", "en", "origin", groups=("french", "moroccan")).text == "Marie and Mohamed met."
    for row in read_list("origin_names"):
        assert len(row["names"].split()) == 10


def test_two_groups_change_place_and_a_second_swap_gives_them_back() -> None:
    text = "L'Algérien revient d'Allemagne avec une amie allemande."
    once = swap(text, "fr", "origin", groups=("algerian", "german")).text
    assert once == "L'Allemand revient d'Algérie avec une amie algérienne."
    assert swap(once, "fr", "origin", groups=("algerian", "german")).text == text


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("x", "de"), {}),
        (("x", "EN"), {}),
        (("x", None), {}),
        (("x", "en", "age"), {}),
        (("x", "en", "origin"), {}),
        (("x", "en", "origin"), {"groups": ("french", "french")}),
        (("x", "en", "origin"), {"groups": "fr"}),
        (("x", "en", "religion"), {"groups": ("christian", "moroccan")}),
        (("x", "en"), {"definitional": "no"}),
        (("x", "en"), {"parser": lambda text: []}),
    ],
)
def test_an_unknown_language_axis_group_or_option_is_a_config_error(arguments: tuple, options: dict) -> None:
    with pytest.raises(ConfigError) as error:
        swap(*arguments, **options)
    assert error.value.fix


def test_something_other_than_text_is_an_input_error() -> None:
    with pytest.raises(InputError):
        swap(3, "en")  # type: ignore[arg-type]


# -- lists ---------------------------------------------------------------------------------------------------------------


def test_every_list_has_a_header_and_every_name_one_counterpart() -> None:
    lists = sorted(path.stem for path in LISTS.glob("*.tsv"))
    assert len(lists) >= 14
    for name in lists:
        assert read_list(name), name
    for lang in ("en", "fr"):
        for key, (other, gender, _) in name_pairs(lang).items():
            assert name_pairs(lang)[other.lower()][0].lower() == key
            assert name_pairs(lang)[other.lower()][1] != gender


def test_the_lists_are_in_the_package_data() -> None:
    import tomllib

    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "lists/*.tsv" in setup["package-data"]["teachfair.data.counterfactuals"]


def test_importing_and_swapping_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom teachfair.data.counterfactuals import swap\nfrom teachfair.data.counterfactuals import rows\n"
        "swap('She left.', 'en'); swap('Elle part.', 'fr')\n"
        "print([n for n in ('torch', 'datasets', 'numpy', 'spacy', 'pandas', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# -- the parser hook -------------------------------------------------------------------------------------------------------


def test_a_parser_decides_what_agrees_where_the_rules_cannot() -> None:
    text = "Jeanne est ensuite entrée."

    def parser(asked: str) -> Sequence[ParsedWord]:
        assert asked == text
        return [
            ParsedWord(0, 6, "PROPN", "nsubj", 3), ParsedWord(7, 10, "AUX", "aux:tense", 3),
            ParsedWord(11, 18, "ADV", "advmod", 3), ParsedWord(19, 25, "VERB", "ROOT", 3),
        ]  # fmt: skip

    assert swap(text, "fr", parser=parser).text == "Jean est ensuite entré."
    assert swap(text, "fr").text != "Jean est ensuite entré."


def test_a_pipeline_that_is_not_installed_says_what_to_do() -> None:
    with pytest.raises(ConfigError) as error:
        spacy_parser("no_such_pipeline")
    assert "rules" in error.value.fix


# -- prompt data sets -------------------------------------------------------------------------------------------------


class ScoreByWord:
    """A reward model that likes "he": unequal treatment that a counterfactual shows."""

    name = "he"

    def score(self, conversations: Sequence[Sequence[dict[str, str]]], **_: object) -> list[float]:
        return [float(sum(" he " in f" {turn['content'].lower()} " for turn in talk)) for talk in conversations]


def test_the_columns_make_the_counterfactual_penalty_of_fairness_reward_work() -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "Is he right?"}], "lang": "en"},
        {"prompt": [{"role": "user", "content": "Is it right?"}], "lang": "en"},
    ]
    made = with_counterfactuals(rows)
    assert made[0]["counterfactual_prompt"] == [{"role": "user", "content": "Is she right?"}]
    assert made[1]["counterfactual_prompt"] == []
    reward = FairnessReward(ScoreByWord(), counterfactual_weight=2.0)
    answers = [[{"role": "assistant", "content": "Yes, he is."}], [{"role": "assistant", "content": "Yes."}]]
    columns = {name: [row[name] for row in made] for name in ("counterfactual_prompt", "swap")}
    got = reward([row["prompt"] for row in rows], answers, **columns)
    # "Is he right?" and "Yes, he is.": 2; swapped: 0; 2 − 2 · |2 − 0| = −2
    assert got == [-2.0, 0.0]
    assert left_counts(made) == {"with a counterfactual": 1, "without a counterfactual": 1}


def test_the_columns_of_a_dataset_are_typed_also_where_no_row_has_a_counterfactual() -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": "It rains.", "lang": "en"}, {"prompt": "Elle est enceinte.", "lang": "fr"}])
    made = with_counterfactuals(rows)
    assert made["counterfactual_prompt"][:] == [[], []]
    assert made["swap"][:] == [[], []]
    assert left_counts(made)["left: definitional"] == 1
    again = with_counterfactuals(Dataset.from_list([{"prompt": "She left.", "lang": "en"}]))
    assert again[0]["counterfactual_prompt"] == [{"role": "user", "content": "He left."}]
    assert ["he", "she"] in again[0]["swap"]


def test_a_doubt_in_one_turn_leaves_the_whole_conversation_unless_a_guess_is_asked_for() -> None:
    turns = [{"role": "user", "content": "Zorblax felt good as he woke."}, {"role": "assistant", "content": "My aunt too."}]
    left = counterfactual_columns(turns, "en")
    assert (left["counterfactual_prompt"], left["swap"]) == ([], [])
    assert "Zorblax: unsure: a name that no list knows" in left["counterfactual_left"]
    guessed = counterfactual_columns(turns, "en", unsure="swap")
    assert [turn["content"] for turn in guessed["counterfactual_prompt"]] == [
        "Zorblax felt good as she woke.",
        "My uncle too.",
    ]


def test_a_pronoun_of_a_later_turn_finds_its_noun_in_an_earlier_one() -> None:
    turns = [
        {"role": "user", "content": "La voiture est en panne."},
        {"role": "assistant", "content": "Depuis quand ?"},
        {"role": "user", "content": "Elle est vieille. Ma sœur arrive."},
    ]
    made = counterfactual_columns(turns, "fr")
    assert [turn["content"] for turn in made["counterfactual_prompt"]] == [
        "La voiture est en panne.", "Depuis quand ?", "Elle est vieille. Mon frère arrive.",
    ]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from([row["text"] for lang in ("en", "fr") for row in BENCHMARK.sentences(lang)]))
def test_the_swap_column_is_always_one_that_fairness_reward_accepts(text: str) -> None:
    for lang in ("en", "fr"):
        swap_mapping(counterfactual_columns(text, lang)["swap"])


@pytest.mark.parametrize(
    ("row", "where"), [({"prompt": ""}, "prompt"), ({"prompt": "x"}, "lang"), ({"prompt": "x", "lang": "de"}, "lang")]
)
def test_a_row_without_prompt_or_language_is_named(row: dict[str, str], where: str) -> None:
    with pytest.raises(DataError) as error:
        with_counterfactuals([{"prompt": "ok", "lang": "en"}, row])
    assert error.value.where == f"row 1: {where}"


def test_a_text_without_group_words_comes_back_as_it_is() -> None:
    assert swap("The weather is nice.", "en") == Swapped("The weather is nice.", [], [])
