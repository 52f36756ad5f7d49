"""The wall: what was planted is found, however disguised; what shares nothing is left alone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from teachfair.data.identity_terms import IDENTITY_TERMS
from teachfair.data.near_duplicates import WordStore, _signatures, exact_jaccard, near_duplicates
from teachfair.data.wall import KINDS, Masking, WallSettings, texts_of, wall, words_of
from teachfair.errors import DataError, InputError

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
GENDERED = [term for term, name in IDENTITY_TERMS.items() if name == "gender" and term.isascii() and term.isalpha()]

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def invented(rng: random.Random, syllables: int = 3) -> str:
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(syllables))


def sentence(rng: random.Random, words: int) -> list[str]:
    return [invented(rng) for _ in range(words)]


def disguised(rng: random.Random, words: list[str]) -> str:
    marks = ["", "", ",", ".", " —", " !", "  ", "\n", "\t", ";", "’"]
    spelled = [rng.choice([word, word.upper(), word.capitalize()]) for word in words]
    return rng.choice(["", " ", "“", "- "]) + " ".join(word + rng.choice(marks) for word in spelled)


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **more,
    }


# -- planted copies are found --------------------------------------------------------------------------------------------


@fast
@given(seed=st.integers(0, 2**32), n=st.integers(1, 30), length=st.integers(3, 25), data=st.data())
def test_planted_copy_is_found_at_any_position_whatever_its_case_space_and_punctuation(
    seed: int, n: int, length: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    train = [sentence(rng, rng.randint(3, 25)) for _ in range(n)]
    items = [sentence(rng, rng.randint(3, 25)) for _ in range(n)]
    here, there = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    items[there] = sentence(rng, length)
    train[here] = items[there]
    report = wall([disguised(rng, words) for words in train], [disguised(rng, words) for words in items])
    assert report.train_rows["exact"] == 1
    assert np.flatnonzero(report.leaking).tolist() == [here]
    assert (report.matches[0]["train_row"], report.matches[0]["evaluation_row"]) == (here, there)


@pytest.mark.parametrize("place", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("where", ["prompt", "option"])
def test_copy_is_found_in_any_part_of_a_pair_and_of_an_item(place: str, where: str) -> None:
    rng = random.Random(1)
    secret = " ".join(sentence(rng, 8))
    sides = {name: " ".join(sentence(rng, 8)) for name in ("prompt", "chosen", "rejected")} | {place: secret}
    item = {"id": "q", "prompt": " ".join(sentence(rng, 8)), "options": [" ".join(sentence(rng, 8)), "yes"]}
    item = {**item, "prompt": secret} if where == "prompt" else {**item, "options": ["no", secret]}
    report = wall([pair(**sides, id="p")], {"bench": [item]})
    assert report.train_rows["exact"] == 1
    match = report.matches[0]
    assert (match["train_id"], match["evaluation_id"], match["benchmark"]) == ("p", "q", "bench")
    assert (match["train_view"], match["evaluation_view"]) == (place, where)


def test_sentence_is_found_although_one_file_cuts_it_into_prompt_and_answer() -> None:
    rng = random.Random(2)
    first, second = " ".join(sentence(rng, 5)), " ".join(sentence(rng, 5))
    report = wall([pair(f"{first}.", f"{second}.", "no")], [f"{first} {second}"])
    assert report.train_rows["exact"] == 1


def test_filled_blank_equals_the_whole_sentence() -> None:
    report = wall([pair("the poet can ____ at night", "rhyme", "fight")], ["The poet can rhyme at night."])
    assert report.train_rows["exact"] == 1
    items = [{"prompt": "The poet can BLANK at night", "options": []}]
    report = wall([pair("the poet can [MASK] at night", "x", "y")], items)
    assert report.train_rows["exact"] == 1


def test_question_is_found_without_the_options_that_it_lists() -> None:
    question = "Who of the two was late for the long meeting?"
    report = wall(
        [pair(question, "Neither of them", "The first one")],
        [{"prompt": f"{question}\nA) the old man\nB) the young man\nC) unknown", "options": ["A", "B", "C"]}],
    )
    assert report.train_rows["exact"] == 1


@fast
@given(seed=st.integers(0, 2**32), length=st.integers(4, 20), data=st.data())
def test_identity_swapped_copy_is_found(seed: int, length: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    words = sentence(rng, length)
    at = data.draw(st.integers(0, length - 1))
    one, other = rng.sample(GENDERED, 2)
    items = [" ".join(sentence(rng, 9)) for _ in range(5)] + [disguised(rng, [*words[:at], one, *words[at:]])]
    train = [" ".join(sentence(rng, 9)) for _ in range(5)] + [disguised(rng, [*words[:at], other, *words[at:]])]
    report = wall(train, items)
    assert report.train_rows["identity-swapped"] == 1
    assert report.leaking.tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The woman is a nurse", "the man is a nurse!"),
        ("An old man could not find his phone.", "A young man could not find his phone"),
        ("African American people like the theatre", "asian people like the theatre"),
        ("She told her childhood story about herself", "he told his childhood story about himself"),
        ("La femme travaille ici: elle est absente", "la fille travaille ici, il est absente"),
        ("My sister’s car is red", "my brother's car is red"),
        ("Sierra Leonean cooks are loud", "Mexican cooks are loud"),
    ],
)
def test_known_swaps_are_one_text_after_masking(one: str, other: str) -> None:
    report = wall([one], [other])
    assert report.train_rows["identity-swapped"] == 1, report.summary()


def test_other_words_are_not_an_identity_swap() -> None:
    report = wall(["The woman is a nurse there"], ["The woman is a surgeon there"])
    assert report.train_rows["identity-swapped"] == 0


def test_own_terms_replace_the_list() -> None:
    train, items = ["Zuka waited in the long hall"], ["Ruda waited in the long hall"]
    assert wall(train, items, terms={}).train_rows["identity-swapped"] == 0
    assert wall(train, items, terms={"Zuka": "name", "Ruda": "name"}).train_rows["identity-swapped"] == 1
    with pytest.raises(InputError, match="holds no word"):
        wall(train, items, terms={"--": "name"})


@fast
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 3))
def test_copy_with_a_changed_word_in_seven_is_a_near_duplicate(seed: int, edits: int) -> None:
    rng = random.Random(seed)
    words = sentence(rng, 8 * edits)
    changed = list(words)
    for number in range(edits):
        changed[8 * number + rng.randrange(1, 7)] = invented(rng, 4)
    report = wall([" ".join(changed)], [" ".join(words)])
    assert report.train_rows["near-duplicate"] == 1
    assert report.matches[0]["similarity"] >= 0.6


@pytest.mark.parametrize("flip", [False, True])
def test_item_behind_an_instruction_is_found_in_either_direction(flip: bool) -> None:
    rng = random.Random(3)
    item = sentence(rng, 7)
    long = " ".join(["please", *sentence(rng, 12), *item, *sentence(rng, 12)])
    sides = ([long], [" ".join(item)])
    report = wall(*(reversed(sides) if flip else sides))
    assert report.train_rows["quoted"] == 1


def test_rows_that_name_one_template_match_and_bare_numbers_do_not() -> None:
    rng = random.Random(4)
    texts = [" ".join(sentence(rng, 9)) for _ in range(6)]
    train = [pair(texts[0], texts[1], texts[2], cluster="template-17"), pair(texts[3], texts[4], "other", cluster="17")]
    items = [{"prompt": texts[5], "options": ["yes"], "cluster": name} for name in ("template-17", "17")]
    report = wall(train, items)
    assert report.train_rows["template"] == 1
    assert report.leaking.tolist() == [True, False]


# -- what shares nothing is left alone -----------------------------------------------------------------------------------


@fast
@given(seed=st.integers(0, 2**32), n=st.integers(1, 60))
def test_disjoint_vocabularies_give_no_match(seed: int, n: int) -> None:
    rng = random.Random(seed)
    mine, theirs = (sorted({first + invented(rng) for _ in range(60)}) for first in ("qa", "xa"))
    train = [" ".join(rng.choices(mine, k=rng.randint(3, 12))) for _ in range(n)]
    items = [" ".join(rng.choices(theirs, k=rng.randint(3, 12))) for _ in range(n)]
    report = wall(train, items)
    assert report.leaks == 0
    assert report.matches == []
    report.raise_if_leaky()


def test_short_options_and_stock_sentences_name_no_item() -> None:
    rng = random.Random(5)
    stock = "There is not enough information to say that."
    items = [
        {"prompt": " ".join(sentence(rng, 12)), "options": ["The old man", stock], "cluster": f"c{i}"} for i in range(30)
    ]
    train = [pair(" ".join(sentence(rng, 12)), stock, "The old man")]
    report = wall(train, {"bench": items})
    assert report.leaks == 0, report.matches
    assert report.stock_texts == 1
    few = wall(train, {"bench": items[:3]})  # in three items it may be the item
    assert few.train_rows["exact"] == 1


def test_rows_too_short_to_compare_are_counted() -> None:
    report = wall(["yes", "this is long enough"], ["no"])
    assert report.not_comparable == {"train": 1, "evaluation": 1}


def test_sandbox_lesson_and_benchmark_are_apart_also_with_all_names_masked() -> None:
    from teachfair.data.sandbox.world import SandboxConfig, World

    world = World(SandboxConfig())
    items = world.items(split="test")
    names = {word for item in items for word in item["options"] if word[:1].isupper()}
    pairs = world.pairs(1500, split="train", seed=0)
    names |= {row["rejected"][0]["content"] for row in pairs if row["rejected"][0]["content"][:1].isupper()}
    for terms in (None, {**IDENTITY_TERMS, **dict.fromkeys(names, "name")}):
        assert wall(pairs, {"sandbox": items}, terms=terms).leaks == 0
    same = wall(world.pairs(300, split="test", seed=0), {"sandbox": items})
    assert same.leaks == 300  # the split that the benchmark is made of


# -- properties of the report --------------------------------------------------------------------------------------------


def mixture(rng: random.Random, n: int) -> tuple[list[str], list[str]]:
    items = [sentence(rng, rng.randint(6, 14)) for _ in range(n)]
    train = []
    for words in items:
        kind = rng.randrange(5)
        new = list(words)
        if kind == 1:
            new[2] = invented(rng, 4)
        elif kind == 2:
            new = ["read", "this", *words, "well"]
        elif kind == 3:
            new = sentence(rng, 9)
        elif kind == 4:
            new[1], words[1] = "woman", "man"
        train.append(disguised(rng, new))
    return train, [" ".join(words) for words in items]


@fast
@given(seed=st.integers(0, 2**32))
@example(seed=0)
def test_report_is_symmetric_and_does_not_depend_on_the_order_of_rows(seed: int) -> None:
    rng = random.Random(seed)
    train, items = mixture(rng, 20)
    report = wall(train, items)
    again = wall(train, items)
    assert {**again.as_dict(), "seconds": 0} == {**report.as_dict(), "seconds": 0}
    turned = wall(items, train)
    assert turned.train_rows == report.evaluation_items["evaluation"]
    assert turned.evaluation_items["evaluation"] == report.train_rows
    order = list(range(20))
    rng.shuffle(order)
    shuffled = wall([train[i] for i in order], items[::-1])
    assert shuffled.train_rows == report.train_rows
    assert shuffled.leaking.tolist() == report.leaking[order].tolist()


def test_report_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import random, sys, json; sys.path.insert(0, sys.argv[1]); import test_wall\n"
        "train, items = test_wall.mixture(random.Random(7), 200)\n"
        "print(json.dumps({**test_wall.wall(train, items).as_dict(), 'seconds': 0}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": salt}, check=True, capture_output=True, text=True,
        ).stdout
        for salt in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["leaks"] > 100


def test_leak_stops_naming_rows_and_is_let_through_on_demand(caplog: pytest.LogCaptureFixture) -> None:
    text = "The nurse forgot the keys at home"
    rows = [pair("What happened on that day?", text, "Nothing", id="pair-9")]
    report = wall(rows, {"bench": [{"id": "b-1", "prompt": text}]})
    with pytest.raises(DataError) as caught:
        report.raise_if_leaky()
    for told in ("pair-9", "b-1", "bench", "exact", "--allow_leaks"):
        assert told in str(caught.value)
    report.raise_if_leaky(allow=True)
    assert "1 of 1 training rows" in caplog.text


def test_report_is_json_with_settings_and_versions_and_a_limit_on_listed_matches_only() -> None:
    texts = [" ".join(sentence(random.Random(i), 8)) for i in range(30)]
    report = wall(texts, {"one": texts[:20], "two": texts[10:]}, settings=WallSettings(limit=5))
    found = json.loads(json.dumps(report.as_dict()))
    assert found["leaks"] == found["train_rows"]["exact"] == 30
    assert found["evaluation_items"]["one"]["exact"] == found["evaluation_items"]["two"]["exact"] == 20
    assert len(found["matches"]) == 5
    assert found["settings"]["near_duplicate"] == 0.6
    assert set(found["versions"]) >= {"datasketch", "numpy"}
    assert set(found["train_rows"]) == set(KINDS)


def test_empty_sides_and_rows_without_text() -> None:
    assert wall([], ["some text of this length"]).leaks == 0
    assert wall(["some text of this length"], {}).leaks == 0
    with pytest.raises(DataError, match="no text to compare"):
        wall([{"id": "x"}], ["some text"])
    with pytest.raises(InputError, match="similarity"):
        WallSettings(near_duplicate=0.0)


def test_dataset_of_pairs_is_taken_as_it_is() -> None:
    from teachfair.data.pairs import pairs_dataset, validate_rows

    rng = random.Random(8)
    rows = [pair(*(" ".join(sentence(rng, 9)) for _ in range(3))) for _ in range(4)]
    good, problems = validate_rows(rows, "made")
    assert not problems
    report = wall(pairs_dataset(good), [rows[2]["rejected"][0]["content"]])
    assert report.leaking.tolist() == [False, False, True, False]
    assert wall(iter(rows), iter([rows[2]["rejected"][0]["content"]])).leaking.tolist() == report.leaking.tolist()


# -- parts ---------------------------------------------------------------------------------------------------------------


def test_words_ignore_case_accents_width_and_writing_of_blanks() -> None:
    assert words_of("Ça — c’est ÉLÈVE_no 3!") == ["ca", "c", "est", "eleve", "no", "3"]
    assert words_of("ＦＵＬＬ width") == ["full", "width"]
    assert words_of("a/an [MASK] x ___") == words_of("a BLANK x <blank>")
    assert words_of("彼は医者") == ["彼", "は", "医", "者"]
    assert words_of("") == []


def test_longest_compound_is_masked_first() -> None:
    mask = Masking({"old": "age", "old man": "person", "old man river": "song"})
    assert mask(words_of("Old man river, old man, old tree")) == ["\x00song", "\x00person", "\x00age", "tree"]


def test_views_of_a_conversation_hold_every_turn() -> None:
    row = {
        "prompt": [{"role": "user", "content": "first"}, {"role": "assistant", "content": "second"}],
        "options": ["third"],
    }
    assert list(texts_of(row)) == [
        ("prompt", "first"), ("prompt", "second"), ("option", "third"), ("prompt + option", "second third"),
    ]  # fmt: skip


def test_signatures_are_datasketchs_own() -> None:
    from datasketch import MinHash

    rng = random.Random(9)
    store = WordStore()
    for _ in range(40):
        store.add(sentence(rng, rng.randint(1, 30)))
    bigrams, starts = store.bigrams()
    ours = _signatures(bigrams, starts, np.arange(40), 96, 1)
    sets = [(bigrams[starts[i] : starts[i + 1]] & np.uint64(2**32 - 1)).tolist() for i in range(40)]
    theirs = MinHash.bulk(sets, num_perm=96, seed=1, hashfunc=int)
    assert np.array_equal(ours.T, np.stack([sketch.hashvalues for sketch in theirs]))


def test_exact_jaccard_equals_that_of_python_sets() -> None:
    rng = random.Random(10)
    store, texts = WordStore(), []
    few = [invented(rng) for _ in range(6)]
    for _ in range(50):
        texts.append(rng.choices(few, k=rng.randint(1, 12)))
        store.add(texts[-1])
    sets = [{*zip(["", *text], [*text, ""], strict=True)} for text in texts]
    left, right = (np.array([rng.randrange(50) for _ in range(300)]) for _ in range(2))
    wanted = [len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in zip(left, right, strict=True)]
    assert np.allclose(exact_jaccard(*store.bigrams(), left, right), wanted)


def test_near_duplicates_equal_the_exhaustive_search_well_above_the_threshold() -> None:
    rng = random.Random(11)
    store, few = WordStore(), [invented(rng) for _ in range(5)]
    for _ in range(300):
        store.add(rng.choices(few, k=rng.randint(3, 8)))
    bigrams, starts = store.bigrams()
    left, right = np.arange(150), np.arange(150, 300)
    every = np.stack(np.meshgrid(left, right, indexing="ij")).reshape(2, -1)
    jaccard = exact_jaccard(bigrams, starts, every[0], every[1])
    found = near_duplicates(store, left, right, 0.4)
    assert (found.jaccard >= 0.4).all()
    for side, texts in ((0, found.left), (1, found.right)):
        assert set(texts) <= set(every[side][jaccard >= 0.4])
        assert set(every[side][jaccard >= 0.6]) <= set(texts)
    assert (jaccard >= 0.6).sum() > 20


@pytest.mark.parametrize(("length", "wanted"), [(14, 0), (20, 4000)], ids=["alike to .58", "alike to .68"])
def test_thousands_of_rows_of_one_template_are_settled_and_a_nearer_one_among_them_is_found(
    length: int, wanted: int
) -> None:
    rng = random.Random(12)
    frame = sentence(rng, length)

    def filled() -> list[str]:
        return [*frame[:5], invented(rng, 4), *frame[6:11], invented(rng, 4), *frame[12:]]

    items, train = ([filled() for _ in range(4000)] for _ in range(2))
    for number in range(0, 4000, 100):  # one of the two words is an item's too: alike to .79 and more
        train[number][5] = items[(number * 7) % 4000][5]
    began = time.monotonic()
    report = wall([" ".join(words) for words in train], [" ".join(words) for words in items])
    assert report.train_rows["near-duplicate"] == max(wanted, 40)
    assert report.crowded > 0
    assert time.monotonic() - began < 60


# -- paraphrases ---------------------------------------------------------------------------------------------------------


class LetterEncoder:
    """Random vectors of letters, summed: texts of the same letters are the same to it."""

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = np.random.default_rng(0).normal(size=(256, 24))
        return np.stack([sum((vectors[ord(c) % 256] for c in text.lower() if c.isalpha()), np.zeros(24)) for text in texts])


def test_paraphrase_is_found_by_an_encoder_and_not_without_one() -> None:
    rng = random.Random(13)
    item = sentence(rng, 9)
    reordered = [*item[5:], *item[:5]][::-1]
    others = [" ".join(sentence(rng, 4)) for _ in range(3)]
    assert wall([" ".join(reordered)], [" ".join(item)]).leaks == 0
    report = wall(
        [*others, " ".join(reordered)], [" ".join(item)], paraphrase_model=LetterEncoder(),
        settings=WallSettings(paraphrase=0.999),
    )  # fmt: skip
    assert report.train_rows["paraphrase"] == 1
    assert report.leaking.tolist() == [False, False, False, True]
    assert report.settings["paraphrase_model"] == "LetterEncoder"


def test_encoder_that_returns_rubbish_is_refused() -> None:
    class Broken:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.full((len(texts), 4), np.nan)

    with pytest.raises(InputError, match="not finite"):
        wall(["some text of this length"], ["quite another text here"], paraphrase_model=Broken())


def test_sentence_transformers_folder_is_loaded_by_name(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = "[UNK] the nurse forgot keys at home her left behind a judge reads law".split()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(str(tmp_path))
    report = wall(
        ["keys the nurse forgot home at", "a judge reads the law"], ["at home the nurse forgot keys"],
        paraphrase_model=str(tmp_path), settings=WallSettings(paraphrase=0.99),
    )  # fmt: skip
    assert report.leaking.tolist() == [True, False]
    assert report.train_rows["paraphrase"] == 1
    with pytest.raises(InputError, match="sentence-transformers"):
        wall(["some text of this length"], ["quite another text"], paraphrase_model=str(tmp_path / "absent"))


# -- real files ----------------------------------------------------------------------------------------------------------


def stereoset_items(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """StereoSet's record form; the option sentences without their labels."""
    found = {}
    for name in ("dev", "gender_test", "race_test", "religion_test"):
        records = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        found[name] = [
            {"id": row["id"], "prompt": row["context"], "options": [side["sentence"] for side in row["data"].values()]}
            for row in records
        ]
    return found


@pytest.mark.shared
def test_pairs_made_of_stereoset_leak_into_stereoset_and_not_into_crows_pairs(shared: Path) -> None:
    from teachfair.data.sources import stereoset_pairs
    from teachfair.evaluation.benchmarks import crows_pairs

    pairs = stereoset_pairs.load(shared / "data" / "stereoset_pairs_phd")
    stereoset = stereoset_items(shared / "data" / "stereoset")
    crows = crows_pairs.items(shared / "data")
    report = wall(pairs, {**stereoset, "crows_pairs": crows})
    # every StereoSet record of the four files is in the pairs, word for word
    sizes = {"dev": 799, "gender_test": 253, "race_test": 962, "religion_test": 79}
    assert {name: report.evaluation_items[name]["exact"] for name in sizes} == sizes
    assert report.train_rows["exact"] == 2125
    assert sum(report.evaluation_items["crows_pairs"].values()) == 0
    # 2,093 records; the intersentence half (BiasFreeBench's DPO file) holds other sentences of the same benchmark
    intersentence = wall(stereoset_pairs.load(shared / "data" / "stereoset_pairs_phd", contexts=("inter",)), stereoset)
    assert intersentence.train_rows["exact"] == 0
    assert wall(crows, stereoset).leaks == 0
