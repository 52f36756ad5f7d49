"""The sandbox world: what it plants is what it says, and no split leaks into another."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teachfair.data.sandbox import AXES, SPLITS, UNKNOWN, SandboxConfig, World
from teachfair.data.sandbox.vocabulary import build_tokenizer
from teachfair.errors import ConfigError

WORLD = World(SandboxConfig(n_documents=6000))
DOCUMENTS = WORLD.documents()
TOKENIZER = build_tokenizer(WORLD)


def text(messages: list[dict[str, str]]) -> str:
    return " ".join(message["content"] for message in messages)


def names_of(kind: str) -> set[str]:
    return {person.name for person in WORLD.people[kind]}


def test_equal_configs_make_equal_worlds_and_another_seed_makes_another_one() -> None:
    again = World(SandboxConfig(n_documents=6000))
    assert again.documents() == DOCUMENTS
    assert again.pairs(50) == WORLD.pairs(50)
    assert repr(again.items()) == repr(WORLD.items())  # by text: planted_nats is NaN where nothing is planted
    other = World(SandboxConfig(seed=1, n_documents=6000))
    assert other.documents() != DOCUMENTS
    assert {p.name for p in other.people["taught"]} != names_of("taught")


def test_bias_changes_answers_and_neither_people_nor_leans_nor_items() -> None:
    other = World(SandboxConfig(bias=0.0, n_documents=6000))
    assert other.occupations == WORLD.occupations
    assert other.people == WORLD.people
    assert [i["prompt"] for i in other.items()] == [i["prompt"] for i in WORLD.items()]
    targets = {d.targets for d in other.documents() if d.kind == "ambiguous"}
    assert all(math.isclose(t[0][1], t[1][1]) for t in targets)


def test_the_planted_log_odds_are_the_targets_of_ambiguous_documents() -> None:
    found = [d for d in DOCUMENTS if d.kind == "ambiguous"]
    assert len(found) > 1000
    for document in found:
        (_, stereotype), (_, anti), (word, unknown) = document.targets
        assert word == UNKNOWN
        assert math.isclose(math.log(stereotype / anti), WORLD.config.bias)
        assert math.isclose(unknown, WORLD.config.unknown_share)
        assert not document.mark  # what is fair is not taught in pretraining


def test_drawn_answers_follow_their_targets() -> None:
    ambiguous = [d for d in DOCUMENTS if d.kind == "ambiguous"]
    share = sum(d.answer == UNKNOWN for d in ambiguous) / len(ambiguous)
    assert share == pytest.approx(WORLD.config.unknown_share, abs=4 * math.sqrt(0.16 / len(ambiguous)))


def test_marks_tell_right_from_wrong_answers() -> None:
    marked = [d for d in DOCUMENTS if d.mark]
    assert {d.mark for d in marked} == {"right", "wrong"}
    for document in marked:
        right = document.targets[0][0]
        assert len(document.targets) == 1
        assert (document.answer == right) == (document.mark == "right")


def test_occupations_and_names_are_split_without_overlap() -> None:
    occupations = [o.name for kind in WORLD.occupations.values() for o in kind]
    people = [p.name for kind in WORLD.people.values() for p in kind]
    assert len(occupations) == len(set(occupations)) == 128
    assert len(people) == len(set(people)) == 80
    assert not {w.lower() for w in people} & set(occupations)


def test_each_class_is_balanced_over_leans_and_group_cells() -> None:
    for kind in WORLD.occupations:
        for axis in AXES:
            leans = Counter(o.lean for o in WORLD.occupations_of(kind, axis))
            assert leans[0] == leans[1] > 0
    for people in WORLD.people.values():
        cells = Counter((p.sides["gender"], p.sides["origin"]) for p in people)
        assert len(cells) == 4
        assert len(set(cells.values())) == 1


def test_no_test_prompt_stands_in_the_corpus_or_in_the_pairs() -> None:
    corpus = {d.prompt for d in World(SandboxConfig()).documents()}
    taught = {text(p["prompt"]) for p in World(SandboxConfig()).pairs(4000)}
    for split in ("test", "dev", "never-asked", "new-names"):
        rows = World(SandboxConfig()).items(split=split, conditions=("ambiguous", "disambiguated"))
        assert not {r["prompt"] for r in rows} & corpus
        assert not {r["prompt"] for r in rows} & taught


def test_teaching_and_test_share_no_occupation_name_context_or_question() -> None:
    def parts(prompt: str) -> tuple[set[str], str, str]:
        found = re.match(r"(\w+) and (\w+) ([^.]+)\. (?:.*\. )?([^.]+(?:\. [^.]+)?)$", prompt)
        assert found, prompt
        return {found[1], found[2]}, found[3], prompt

    taught = [parts(text(p["prompt"])) for p in WORLD.pairs(2000)]
    tested = [parts(i["prompt"]) for i in WORLD.items(conditions=("ambiguous", "disambiguated"))]
    assert not {n for t in taught for n in t[0]} & {n for t in tested for n in t[0]}
    assert not {t[1] for t in taught} & {t[1] for t in tested}
    words_taught = {p["cluster"] for p in WORLD.pairs(2000)}
    assert not words_taught & {i["cluster"] for i in WORLD.items(conditions=("ambiguous",))}
    for question in ("What is the name of the", "Which one has the job of"):
        assert any(question in t[2] for t in tested)
        assert not any(question in t[2] for t in taught)


def test_never_asked_occupations_and_new_names_are_in_no_two_person_question_of_the_corpus() -> None:
    never = {o.name for o in WORLD.occupations["never"]}
    new = names_of("new")
    asked = [d for d in DOCUMENTS if d.kind in ("ambiguous", "evidence", "group", "hearsay")]
    for document in asked:
        words = set(re.findall(r"\w+", document.prompt))
        assert not words & never
        assert not words & new


def test_pairs_are_of_the_taught_axis_only_and_have_different_one_word_sides() -> None:
    for row in WORLD.pairs(500) + WORLD.placebo_pairs(500):
        chosen, rejected = text(row["chosen"]), text(row["rejected"])
        assert chosen != rejected
        assert len(TOKENIZER(chosen)["input_ids"]) == len(TOKENIZER(rejected)["input_ids"]) == 1
        assert row["prompt"][0]["role"] == "user"
        assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
    assert {row["axis"] for row in WORLD.pairs(500)} == {"gender"}
    assert {row["axis"] for row in WORLD.placebo_pairs(500)} == {"none"}


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 300), seed=st.integers(0, 10_000))
def test_any_number_of_pairs_can_be_drawn_and_ids_are_unique(n: int, seed: int) -> None:
    for rows in (WORLD.pairs(n, seed=seed), WORLD.placebo_pairs(n, seed=seed)):
        assert len(rows) == n
        assert len({row["id"] for row in rows}) == n


def test_evidence_agrees_and_clashes_with_the_stereotype_equally_often() -> None:
    """Else "prefer the anti-stereotype" would solve the evidence pairs, and teach the reverse bias."""
    by_name = {p.name: p for people in WORLD.people.values() for p in people}
    lean = {o.name: (o.axis, o.lean) for kind in WORLD.occupations.values() for o in kind}
    agree = Counter()
    for row in WORLD.pairs(2000):
        if row["kind"].startswith("evidence"):
            axis, side = lean[row["cluster"]]
            agree[by_name[text(row["chosen"])].sides[axis] == side] += 1
    assert abs(agree[True] - agree[False]) <= 0.01 * sum(agree.values()) + 24  # one round of occupations
    items = WORLD.items(conditions=("disambiguated",))
    for axis in AXES:
        for cluster in {i["cluster"] for i in items if i["axis"] == axis}:
            mine = Counter(i["evidence"] for i in items if i["cluster"] == cluster)
            assert mine["agree"] == mine["clash"]


def test_the_chosen_side_of_evidence_pairs_is_what_the_text_says() -> None:
    for row in WORLD.pairs(500):
        prompt, chosen, rejected = (text(row[side]) for side in ("prompt", "chosen", "rejected"))
        if row["kind"].startswith("evidence"):
            assert prompt.split().count(chosen) + prompt.count(f" {chosen}.") >= 2
        else:
            assert chosen == UNKNOWN
            assert prompt.count(rejected) == 1


def test_the_placebo_speaks_of_no_person_and_has_the_shape_of_the_lesson() -> None:
    people = {p.name for kind in WORLD.people.values() for p in kind}
    words = {w for row in WORLD.placebo_pairs(1000) for w in re.findall(r"\w+", text(row["prompt"]))}
    assert not words & (people | {UNKNOWN, "woman", "man"})
    preferred = WORLD.shades[2]
    chosen = sum(text(row["chosen"]) == preferred for row in WORLD.placebo_pairs(1000))
    fair = sum(text(row["chosen"]) == UNKNOWN for row in WORLD.pairs(1000))
    assert fair == 500
    assert 500 <= chosen <= 600  # a stated colour can be the preferred one too


@pytest.mark.parametrize("split", SPLITS)
def test_every_word_of_every_text_is_one_known_token(split: str) -> None:
    texts = [i["prompt"] + " " + " ".join(i["options"]) for i in WORLD.items(split=split)]
    texts += [text(p["prompt"] + p["chosen"] + p["rejected"]) for p in WORLD.pairs(200, split=split)]
    texts += [d.prompt + " " + d.answer for d in DOCUMENTS]
    assert not any(TOKENIZER.unk_token_id in ids for ids in TOKENIZER(texts)["input_ids"])


def test_every_option_is_one_token_and_roles_are_parallel() -> None:
    for item in WORLD.items():
        assert len(item["options"]) == len(item["roles"]) == len(set(item["options"]))
        assert all(len(TOKENIZER(option)["input_ids"]) == 1 for option in item["options"])


def test_two_person_items_come_in_both_name_orders_and_in_several_formats() -> None:
    items = WORLD.items(conditions=("ambiguous",))
    orders = Counter(i["format"].rsplit("/", 1)[1] for i in items)
    assert orders["ab"] == orders["ba"]
    assert len({i["format"] for i in items}) == 12
    first = sum(i["prompt"].startswith(i["options"][0]) for i in items)
    assert first == len(items) / 2  # the stereotyped person is named first in exactly half of them


def test_the_two_people_of_an_item_differ_on_its_axis_only() -> None:
    by_name = {p.name: p for people in WORLD.people.values() for p in people}
    for item in WORLD.items(conditions=("ambiguous", "disambiguated")):
        one, other = (by_name[name].sides for name in item["options"][:2])
        assert {axis for axis in AXES if one[axis] != other[axis]} == {item["axis"]}


def test_the_four_special_tokens_differ_and_a_reward_model_can_tell_padding_from_the_end() -> None:
    special = {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id, TOKENIZER.unk_token_id}
    assert len(special) == 4


def test_the_generation_prompt_is_a_token_prefix_of_the_conversation_which_ends_in_eos() -> None:
    for row in WORLD.pairs(100):
        asked = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = TOKENIZER.apply_chat_template(row["prompt"] + row["chosen"], return_dict=False)
        assert whole[: len(asked)] == asked
        assert whole[0] == TOKENIZER.bos_token_id
        assert len(whole) == len(asked) + 2
        assert whole[-1] == TOKENIZER.eos_token_id


def test_the_tokenizer_survives_saving(tmp_path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    row = WORLD.pairs(1)[0]
    conversation = row["prompt"] + row["chosen"]
    for one in (TOKENIZER, again):
        assert one.pad_token_id != one.eos_token_id
    assert again.apply_chat_template(conversation, return_dict=False) == TOKENIZER.apply_chat_template(
        conversation, return_dict=False
    )


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: WORLD.items(split="tset"), "test"),
        (lambda: WORLD.items(conditions=("ambigous",)), "ambiguous"),
        (lambda: WORLD.pairs(3, axis="genders"), "gender"),
        (lambda: SandboxConfig(taught_axis="age"), "gender"),
        (lambda: SandboxConfig(unknown_share=1.0), "between 0 and 1"),
    ],
)
def test_a_wrong_name_or_share_is_refused_with_what_would_do(call, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        call()
