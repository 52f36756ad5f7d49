"""The fairness reward: the reward model's own number, its rules, its counterfactual, what it logs and what it refuses."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from online import online_rows

from teachfair.alignment.fairness_reward import FairnessReward
from teachfair.errors import CheckpointError, ConfigError, InputError

pytest_plugins = ["online"]


class Told:
    """A scorer that is told how to judge the last message."""

    name = "told"

    def __init__(self, judge: Any) -> None:
        self.judge = judge

    def score(self, conversations: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        return np.array([self.judge(talk[0]["content"], talk[-1]["content"]) for talk in conversations])


def asked(*prompts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def said(*answers: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": answer}] for answer in answers]


def ids_of(answers: Sequence[str], eos: int = 2) -> list[list[int]]:
    return [[7] * len(answer.split()) + [eos] for answer in answers]


def test_importing_the_reward_loads_nothing_heavy() -> None:
    code = (
        "import sys, teachfair.alignment.fairness_reward, teachfair.alignment.alarms, teachfair.alignment.sampled_pairs\n"
        "print([n for n in ('torch', 'transformers', 'trl', 'datasets', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_reward_inside_grpo_is_the_reward_of_training(
    reward_model_run: tuple[Path, list[Any], list[float]], tiny_llama: Path, tmp_path: Path
) -> None:
    """Through TRL's own reward path: what GRPO collects for known answers against the trainer's numbers on its own ids."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    folder, talks, in_training = reward_model_run
    reward = FairnessReward.load(folder)
    rows = Dataset.from_list([{"prompt": prompt, "groups": groups} for prompt, _, groups in talks])
    trainer = GRPOTrainer(
        model=str(tiny_llama), reward_funcs=reward, train_dataset=rows,
        args=GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_completion_length=4, bf16=False,
            report_to="none", max_steps=1, disable_tqdm=True, activation_checkpointing=False, save_strategy="no",
        ),
    )  # fmt: skip
    answers = [answer for _, answer, _ in talks]
    online = trainer._calculate_rewards(
        list(rows), list(rows["prompt"]), answers, [[1, 2]] * len(answers)
    )[:, 0]  # fmt: skip
    np.testing.assert_allclose(online.numpy(), in_training, atol=1e-5)
    assert torch.isfinite(online).all()
    assert trainer.reward_func_names == ["fairness"]
    assert np.std(in_training) > 1e-3, "rewards that are all alike would prove nothing"


def test_the_paired_reward_takes_off_what_depends_on_the_group_and_nothing_else() -> None:
    def judge(prompt: str, answer: str) -> float:
        return {"Ann": 2.0, "Ben": 0.5}.get(answer, 1.0)

    columns = {"swap": [[["Ann", "Ben"]]] * 3}
    prompts, answers = asked(*["Ann and Ben met. Who is the nurse?"] * 3), ["Ann", "Ben", "unknown"]
    plain = FairnessReward(Told(judge))(prompts, said(*answers), ids_of(answers), **columns)
    paired = FairnessReward(Told(judge), counterfactual_weight=0.5)(prompts, said(*answers), ids_of(answers), **columns)
    assert plain == [2.0, 0.5, 1.0]
    assert paired == [2.0 - 0.75, 0.5 - 0.75, 1.0]


def test_the_answer_of_the_swapped_prompt_is_the_answer_with_the_words_exchanged() -> None:
    seen: list[tuple[str, str]] = []

    def judge(prompt: str, answer: str) -> float:
        seen.append((prompt, answer))
        return 0.0

    FairnessReward(Told(judge))(
        asked("Ann and Ben met. Ann is the nurse. Who?"), said("Ann, she is a Woman."), [[1]],
        swap=[{"Ann": "Ben", "she": "he", "woman": "man", "tall": None}], counterfactual_prompt=[None],
    )  # fmt: skip
    assert seen[1] == ("Ben and Ann met. Ben is the nurse. Who?", "Ben, he is a Man.")
    FairnessReward(Told(judge))(
        asked("Who?"), said("Ann"), [[1]], swap=[[["Ann", "Ben"]]], counterfactual_prompt=asked("Who, then?")
    )
    assert seen[-1] == ("Who, then?", "Ben")


def test_where_the_rules_exchanged_the_prompt_they_exchange_the_answer_too_and_not_word_by_word() -> None:
    seen: list[str] = []

    def judge(prompt: str, answer: str) -> float:
        seen.append(answer)
        return float("her" in answer.split())

    answers = ["The woman lost her keys, ask her.", "Elle est contente.", "She is pregnant."]
    rules = [["en", "gender"], ["fr", "gender"], ["en", "gender"]]
    reward = FairnessReward(Told(judge), counterfactual_weight=1.0)
    found = reward(
        asked(*["Who?"] * 3), said(*answers), [[1]] * 3, counterfactual_rules=rules, swap=[[["her", "his"]], None, None],
        counterfactual_prompt=[[{"role": "user", "content": "Who, then?"}]] * 3,
    )  # fmt: skip
    assert seen[3:] == ["The man lost his keys, ask him.", "Il est content."], "her became his, and him"
    assert found == [0.0, 0.0, 0.0]
    assert reward.report()["counts"]["answers that hold of one group only"] == 1
    assert reward.report()["counts"]["without counterfactual"] == 1


def test_a_batch_without_any_counterfactual_costs_nothing_where_other_rows_have_one() -> None:
    reward = FairnessReward(Told(lambda prompt, answer: 1.0), counterfactual_weight=1.0)
    assert reward(asked("Q"), said("a"), [[1]], counterfactual_prompt=[[]], counterfactual_rules=[[]]) == [1.0]
    assert reward.report()["counts"]["without counterfactual"] == 1


@pytest.mark.shared
@pytest.mark.parametrize("source", ["bbq_ambiguous_answers", "winobias", "crows_pairs"])
def test_on_real_prompts_a_reward_that_does_not_see_the_group_is_not_charged_and_a_planted_one_is(
    shared: Path, source: str
) -> None:
    """Questions with both answers of each pair; of CrowS-Pairs, which has no prompts, a question about each sentence."""
    from teachfair.data import SOURCES
    from teachfair.data.answer_traits import grounded, mentions, words_of
    from teachfair.data.prompt_counterfactuals import add_counterfactuals
    from teachfair.data.prompts import prompts_dataset

    options: dict[str, Any] = {"form": "questions", "types": ["type1"]} if source == "winobias" else {}
    rows = []
    for pair in SOURCES[source].load(shared / "data" / source, **options):
        if pair["axis"] != "gender":
            continue
        told = [pair[side][-1]["content"] for side in ("chosen", "rejected")]
        if source == "crows_pairs":
            rows.append(pair | {"prompt": f"{told[0]} What kind of person is this?", "told": told[1]})
        else:
            rows += [pair | {"told": answer} for answer in told]
    prompts, report = add_counterfactuals(prompts_dataset(rows[:600], source))
    assert report["with"] > 100
    columns = {name: list(prompts[name]) for name in ("counterfactual_prompt", "counterfactual_rules")}
    men = ["he", "him", "his", "man", "men", "boy", "husband", "father", "mr"]

    def penalties(judge: Any) -> np.ndarray:
        talks = list(prompts["prompt"]), said(*prompts["told"]), [[1]] * len(prompts)
        plain = FairnessReward(Told(judge))(*talks, **columns)
        return np.array(plain) - FairnessReward(Told(judge), counterfactual_weight=1.0)(*talks, **columns)

    assert np.all(penalties(lambda prompt, answer: float(len(words_of(prompt)) > 12)) == 0)
    charged = penalties(lambda prompt, answer: float(mentions(f"{prompt} {answer}", men)))
    assert charged.mean() > 0.1
    # depends on the answer and on the prompt together: exchanged by the same rules they fit as before
    assert np.mean(penalties(grounded) > 1e-9) < 0.02


def test_the_sandboxs_prompts_and_their_word_by_word_exchange_are_what_they_were() -> None:
    """Published lessons stand on them: the hash of what the trainer is given, and the reward's own swap."""
    from teachfair.alignment import lesson
    from teachfair.alignment.arguments import OnlineArguments
    from teachfair.alignment.online import prompts_hash
    from teachfair.alignment.online_lesson import prompts_from, with_counterfactuals
    from teachfair.data.swapping import swapped_text

    own = OnlineArguments(num_sandbox_prompts=40, counterfactual_weight=0.3, counterfactual_lang="en")
    rows = prompts_from(own, sandbox=lesson.sandbox(seed=0, bias=2.0), seed=0)
    prompts, record = with_counterfactuals(own, rows)
    assert record["counterfactuals"] == {"by": "the rows' own", "rows": 40, "with": 40, "without": {}}
    assert prompts_hash(prompts) == "873da84525fe179aeeee1f36bfaa07ce2f7b2e299877a4bda4b79c6a9234aff2"
    seen: list[str] = []

    def judge(prompt: str, answer: str) -> float:
        seen.append(answer)
        return 0.0

    answers = [f"She said {row['answer']}" for row in prompts]
    columns = {name: list(prompts[name]) for name in prompts.column_names if name != "prompt"}
    FairnessReward(Told(judge), counterfactual_weight=0.3)(list(prompts["prompt"]), said(*answers), **columns)
    assert seen[40:] == [swapped_text(answer, swap) for answer, swap in zip(answers, prompts["swap"], strict=True)]


def test_rules_are_added_with_their_weights_and_may_punish() -> None:
    answers = ["Ann", "Ann a woman", "Sorry, no", "Ann Ann Ann"]
    reward = FairnessReward(
        Told(lambda prompt, answer: 1.0),
        rules={"length": -0.1, "group_mention": -1.0, "refusal": -2.0, "repetition": -4.0, "unfinished": -8.0},
        eos_token_ids=[2],
    )
    ids = ids_of(answers)
    ids[0] = [7]  # cut off
    found = reward(asked(*["Who?"] * 4), said(*answers), ids, groups=[["woman", "man"]] * 4)
    np.testing.assert_allclose(found, [1 - 0.1 - 8, 1 - 0.4 - 1, 1 - 0.3 - 2, 1 - 0.4 - 4])


def test_group_means_gaps_the_counterfactual_gap_and_the_watched_quantities_are_logged_by_name() -> None:
    logged: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    reward = FairnessReward(
        Told(lambda prompt, answer: {"Ann": 2.0, "Ben": 0.5}.get(answer, 0.0)),
        gold=lambda row, answer: answer == row["truth"],
    )
    answers = ["Ann", "Ben", "unknown", "Ann"]
    reward(
        asked("Q1 Ann", "Q1 Ann", "Q2", "Q2"), said(*answers), ids_of(answers), swap=[[["Ann", "Ben"]]] * 4,
        group=["woman", "man", "woman", ""], condition=["disambiguated", "ambiguous", "disambiguated", "ambiguous"],
        truth=["Ben", "Ben", "unknown", "unknown"], log_metric=logged.__setitem__, log_extra=extra.__setitem__,
        trainer_state=SimpleNamespace(global_step=3),
    )  # fmt: skip
    expected = {
        "score": 1.125, "mean/woman": 1.0, "mean/man": 0.5, "gap": 0.5, "counterfactual_gap": 1.125, "length": 2.0,
        "unknown_when_decided": 0.5, "abstention": 0.25, "gold": 0.5, "misranked": 1.0, "group_mention": 0.0,
    }  # fmt: skip
    for name, value in expected.items():
        assert logged[f"fairness/{name}"] == pytest.approx(value), name
    assert all(np.isfinite(value) for value in logged.values())
    assert extra["fairness_score"] == [2.0, 0.5, 0.0, 2.0]


def test_a_batch_with_one_group_has_no_gap_instead_of_a_gap_of_zero() -> None:
    logged: dict[str, float] = {}
    FairnessReward(Told(lambda prompt, answer: 1.0))(
        asked("Q", "Q"), said("a", "b"), [[1], [1]], group=["woman", "woman"], log_metric=logged.__setitem__
    )
    assert "fairness/gap" not in logged
    assert "fairness/counterfactual_gap" not in logged


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_names_model_step_and_row(broken: float) -> None:
    reward = FairnessReward(Told(lambda prompt, answer: broken if answer == "b" else 1.0))
    with pytest.raises(InputError) as error:
        reward(asked("Q", "Q"), said("a", "b"), [[1], [1]], trainer_state=SimpleNamespace(global_step=7))
    assert "row 1 of the batch of step 7" in error.value.where
    assert "told" in error.value.where
    assert error.value.fix


def test_other_broken_batches_are_named() -> None:
    class Short(Told):
        def score(self, conversations: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
            return super().score(conversations)[:-1]

    fine = Told(lambda prompt, answer: 1.0)
    with pytest.raises(InputError, match="scores of shape"):
        FairnessReward(Short(fine.judge))(asked("Q", "Q"), said("a", "b"), [[1], [1]])
    with pytest.raises(InputError, match="different lengths"):
        FairnessReward(fine)(asked("Q", "Q"), said("a", "b"), [[1]])
    with pytest.raises(InputError, match="different lengths"):
        FairnessReward(fine)(asked("Q", "Q"), said("a", "b"), [[1], [1]], group=["x"])
    with pytest.raises(InputError, match="plain text"):
        FairnessReward(fine)(["Q"], ["a"], [[1]])
    with pytest.raises(InputError, match="no row has a counterfactual"):
        FairnessReward(fine, counterfactual_weight=1.0)(asked("Q"), said("a"), [[1]])
    with pytest.raises(InputError, match="both"):
        FairnessReward(fine)(asked("Q"), said("a"), [[1]], swap=[[["her", "his"], ["her", "him"]]])
    columns: dict[str, Any] = {"counterfactual_prompt": asked("Q'"), "counterfactual_rules": [["en"]]}
    with pytest.raises(InputError, match="names no axis"):
        FairnessReward(fine)(asked("Q"), said("a"), [[1]], **columns)
    with pytest.raises(ConfigError, match="did you mean 'length'"):
        FairnessReward(fine, rules={"lenght": 1.0})
    with pytest.raises(ConfigError, match="counterfactual_weight"):
        FairnessReward(fine, counterfactual_weight=-1.0)


def test_a_reward_model_with_two_outputs_is_refused(reward_model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "two"
    shutil.copytree(reward_model_folder, folder)
    AutoModelForSequenceClassification.from_pretrained(
        reward_model_folder, num_labels=2, ignore_mismatched_sizes=True
    ).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="one output, this one has 2"):
        FairnessReward.load(folder)


def test_another_chat_template_than_the_policys_is_a_counted_warning(
    reward_model_folder: Path, tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from teachfair.models.checkpoint import load_tokenizer

    policy = load_tokenizer(tiny_llama)
    with caplog.at_level(logging.WARNING):
        assert FairnessReward.load(reward_model_folder, policy_tokenizer=policy).report()["counts"] == {}
        assert not caplog.records
        policy.chat_template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
        reward = FairnessReward.load(reward_model_folder, policy_tokenizer=policy)
    assert reward.report()["counts"] == {"another chat template": 1}
    assert "another chat template" in caplog.text
    json.dumps(reward.report())


def test_the_sandboxs_truth_is_the_evidence_or_unknown_and_its_counterfactual_swaps_the_two_people() -> None:
    from teachfair.data.sandbox.gold import counterfactual, fair_answer, gold_reward, prompt_rows
    from teachfair.data.sandbox.world import World

    world = World()
    rows = prompt_rows(world, 60)
    assert {row["condition"] for row in rows} == {"ambiguous", "disambiguated"}
    for row in rows:
        assert gold_reward(row, f" {row['answer']}. ") == 1.0
        assert gold_reward(row, f"{row['answer']} {row['answer']}") == 0.0
        assert (row["answer"] == "unknown") == (row["condition"] == "ambiguous") == (row["group"] == "")
        first, second, _ = row["options"]
        other = row["counterfactual_prompt"][0]["content"]
        assert other.startswith(f"{second} and {first} ")
        assert counterfactual(world, other)["counterfactual_prompt"] == row["prompt"], "a swap undoes itself"
        if row["answer"] != "unknown":
            assert f"{second if row['answer'] == first else first}" in other.split(". ", 1)[1]
    for item in world.items(split="dev")[::7]:
        if item["condition"] != "placebo":
            assert gold_reward(item, fair_answer(item)) == 1.0
            assert not any(gold_reward(item, option) for option in item["options"] if option != fair_answer(item))
    with pytest.raises(InputError, match="not known"):
        fair_answer({"id": "x"})


@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_a_run_logs_the_fairness_quantities_at_every_step(
    method: str, reward_model_folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    import trl
    from datasets import Dataset

    reward = FairnessReward.load(reward_model_folder, counterfactual_weight=0.5, rules={"length": -0.01})
    trainer = getattr(trl, f"{method}Trainer")(
        model=str(tiny_llama), reward_funcs=reward, train_dataset=Dataset.from_list(online_rows()),
        args=getattr(trl, f"{method}Config")(
            output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=5, bf16=False,
            report_to="none", max_steps=3, disable_tqdm=True, activation_checkpointing=False, save_strategy="no",
            logging_steps=1, beta=0.04,
        ),
    )  # fmt: skip
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "fairness/score" in entry]
    assert len(steps) == 3
    assert {"fairness/counterfactual_gap", "fairness/length", "fairness/rule/length", "kl", "entropy"} <= set(steps[0])
    assert reward.report()["counts"]["answers"] == 3 * 8
