"""Open answers: both versions of every prompt, what is read off an answer, and undefined is never 0."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_judged import reward_model

from teachfair import runs
from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.benchmarks import open_answers
from teachfair.evaluation.evaluate import RECORD_COLUMNS, evaluate, load_records
from teachfair.models.greedy import Answer


class Scripted:
    """A policy that answers as a function of the prompt says."""

    tokenizer = None

    def __init__(self, say: Any) -> None:
        self.say = say

    def answers(self, prompts: Any, *, max_new_tokens: int = 64, progress: Any = None) -> list[Answer]:
        return [Answer(text, len(text.split()), True) for text in (self.say(prompt[-1]["content"]) for prompt in prompts)]


def test_every_built_in_prompt_has_a_version_about_the_other_group_that_leads_back() -> None:
    items = open_answers.items()
    assert len(items) >= 120  # 60 prompts in two versions
    assert len({item["cluster"] for item in items}) >= 12
    assert {item["lang"] for item in items} == {"en", "fr"}
    assert {item["axis"] for item in items} == {"gender", "religion", "origin"}
    assert len({item["id"] for item in items}) == len(items)
    for one, other in zip(items[::2], items[1::2], strict=True):
        assert one["base_id"] == other["base_id"]
        assert one["prompt"] != other["prompt"]
        assert one["counterfactual_prompt"][0]["content"] == other["prompt"]
        assert other["counterfactual_prompt"][0]["content"] == one["prompt"]
        assert one["groups"] == other["groups"][::-1]
        assert "{" not in one["prompt"]
    assert {item["lang"] for item in open_answers.items(lang=["fr"])} == {"fr"}
    with pytest.raises(InputError, match="no prompt"):
        open_answers.items(lang=["de"])


def test_a_policy_that_repeats_the_prompt_depends_on_the_group_in_its_words_only() -> None:
    records = pd.DataFrame(open_answers.score(Scripted(lambda prompt: prompt), open_answers.items()))
    assert set(RECORD_COLUMNS) <= set(records.columns)
    found = open_answers.summarise(records)
    assert found["flip_rate"] == 0.0
    assert found["distance"] == 0.0
    assert found["group_mention"] == 1.0
    assert math.isnan(found["reward"])
    assert math.isnan(found["reward_gap"])
    assert "no reward model" in found["reasons"]["reward_gap"]


def test_a_policy_that_refuses_one_group_and_mentions_no_group_is_seen() -> None:
    def say(prompt: str) -> str:
        return "I'm sorry, I cannot help with that." if "Muslim" in prompt else "A fine day."

    items = [item for item in open_answers.items(lang=["en"]) if item["axis"] == "religion"]
    records = pd.DataFrame(open_answers.score(Scripted(say), items))
    found = open_answers.summarise(records)["by_axis"]["religion"]
    assert found["worst_group"] == "muslim"
    assert found["by_group"]["muslim"]["refusal"] == 1.0
    assert found["largest_gap"]["refusal"] == 1.0
    assert found["group_mention"] == 0.0
    asked = records[records["group"] == "muslim"]
    assert (asked["counterfactual_tokens_gap"] == 4).all()
    assert (asked["counterfactual_same"] == 0).all()
    assert (asked["counterfactual_distance"] == 1).all()
    sorry = Scripted(lambda prompt: "Désolé, je ne peux pas vous aider.")
    french = open_answers.score(sorry, open_answers.items(lang=["fr"]))
    assert all(record["refusal"] == 1.0 for record in french)


def test_a_prompt_that_cannot_be_answered_has_no_numbers_and_no_part_in_the_summary() -> None:
    class Half(Scripted):
        def answers(self, prompts: Any, **more: Any) -> list[Answer]:
            said = super().answers(prompts)
            long = Answer("", 0, False, "too long")
            return [long if "Muslim" in p[-1]["content"] else a for p, a in zip(prompts, said, strict=True)]

    items = [item for item in open_answers.items(lang=["en"]) if item["cluster"] == "open-en-day off"]
    records = pd.DataFrame(open_answers.score(Half(lambda prompt: "A fine day."), items)).set_index("group")
    assert (records.loc["muslim", "problem"] == "too long").all()
    assert (records.loc["muslim", "chosen_role"] == "").all()
    assert records.loc["muslim", ["answer_tokens", "refusal", "counterfactual_same"]].isna().all(axis=None)
    assert records.loc["christian", "counterfactual_same"].isna().all()
    found = open_answers.summarise(records.reset_index())
    assert found["n_items"] == 2
    assert found["answer_tokens"] == 3
    assert math.isnan(found["flip_rate"])


def test_prompts_of_ones_own_bring_their_counterfactual_or_get_it_by_rules_or_stand_alone(tmp_path: Path) -> None:
    folder = tmp_path / "open_answers"
    folder.mkdir()
    rows = [
        {"prompt": "tom is late . who is tom ?", "swap": [["tom", "ann"]], "groups": ["tom"], "id": "by swap"},
        {"prompt": "She is a doctor.", "lang": "en", "axis": "gender", "id": "by rules"},
        {"prompt": "Quoi ?", "id": "alone"},
        {"prompt": "one", "counterfactual_prompt": "two", "id": "given", "group": "a", "counterfactual_group": "b"},
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = {item["id"]: item for item in open_answers.items(tmp_path)}
    assert items["by swap-1"]["prompt"] == "ann is late . who is ann ?"
    assert items["by swap-1"]["terms"] == ["ann"]
    assert items["by rules-1"]["prompt"] == "He is a doctor."
    assert "alone-1" not in items
    assert items["given-1"]["group"] == "b"
    records = pd.DataFrame(open_answers.score(Scripted(lambda prompt: prompt), list(items.values())))
    assert records.set_index("item_id")["counterfactual_same"].isna().to_dict()["alone-0"]
    assert open_answers.data_files(tmp_path) == [folder / "prompts.jsonl"]


def test_a_real_policy_is_scored_by_a_reward_model_that_did_not_teach_it(tiny_llama: Path, tmp_path: Path) -> None:
    judge = reward_model(tmp_path / "judge", seed=0)
    options = {"open_answers": {"reward_model": str(judge), "max_new_tokens": 4, "lang": ["en"]}}
    out = evaluate(tiny_llama, ["open_answers"], None, tmp_path / "out", options=options, limit=8)
    records = load_records(out)
    assert records["reward"].notna().all()
    assert (records["reward_gap"] == records["reward"] - records["counterfactual_reward"]).all()
    shutil.copytree(tiny_llama, tmp_path / "taught")
    runs.write_record(tmp_path / "taught", kind="teach", reward_model=str(judge))
    with pytest.raises(ConfigError, match="the judge is the teacher"):
        evaluate(tmp_path / "taught", ["open_answers"], None, tmp_path / "refused", options=options)
