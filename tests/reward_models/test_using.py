"""Scoring, ranking, calibrating and classifying with a reward model."""

import json
import shutil

import numpy as np
import pytest

from teachfair.errors import CheckpointError, ConfigError, DataError, InputError
from teachfair.reward_models.calibrating import fit_calibration, probability
from teachfair.reward_models.classifying import classify
from teachfair.reward_models.ranking import rank_candidates, rank_pairs
from teachfair.reward_models.rendering import render
from teachfair.reward_models.scoring import RewardModel, read_calibration
from teachfair.reward_models.training import train_reward_model
from teachfair.reward_models.windows import score_long_texts


@pytest.fixture(scope="module")
def folder(llama, train_pairs, eval_pairs, tmp_path_factory):
    return train_reward_model(
        llama,
        train_pairs,
        eval_pairs,
        tmp_path_factory.mktemp("rm") / "rm",
        max_steps=90,
        learning_rate=3e-3,
        per_device_train_batch_size=16,
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )


@pytest.fixture(scope="module")
def model(folder):
    return RewardModel.load(folder)


def swapped(pairs, places):
    return pairs.map(
        lambda row, place: {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if place in places else row,
        with_indices=True,
    )


def test_rewards_do_not_depend_on_batch_size_or_order(model, eval_pairs):
    asked = [[*row["prompt"], *row["chosen"]] for row in eval_pairs]
    together = model.score(asked)
    assert together.dtype == np.float64
    np.testing.assert_allclose(model.score(asked, batch_size=1), together, atol=1e-5)
    np.testing.assert_allclose(model.score(asked[::-1], batch_size=9)[::-1], together, atol=1e-5)


def test_a_conversation_beyond_the_context_is_an_error_that_names_its_row(model):
    short = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna is."}]
    long = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna " * 200}]
    with pytest.raises(InputError, match="row 1"):
        model.score([short, long])


def test_another_ones_classifier_or_language_model_is_refused_with_the_reason(llama, bert, folder, tmp_path):
    with pytest.raises(CheckpointError, match="without a reward head"):
        RewardModel.load(llama)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        RewardModel.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="its weights lack"):
        RewardModel.load(bert)
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        RewardModel.load(broken)


def test_another_ones_reward_model_is_read_through_its_own_chat_template(folder, model, eval_pairs, tmp_path):
    """A folder that was not framed by us: template and no further special tokens, as TRL's trainers do."""
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    del config["teachfair_framed"]
    (foreign / "config.json").write_text(json.dumps(config))
    asked = [[*row["prompt"], *row["chosen"]] for row in eval_pairs]
    loaded = RewardModel.load(foreign)
    assert not loaded.is_framed
    np.testing.assert_allclose(loaded.score(asked), model.score(asked), atol=1e-5)
    (foreign / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        RewardModel.load(foreign)
    two = {**config, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (foreign / "config.json").write_text(json.dumps(two))
    with pytest.raises(CheckpointError):
        RewardModel.load(foreign)


def test_disagreements_are_counted_per_kind_and_kept_dropped_or_flipped(model, eval_pairs):
    wrong = {1, 3, 4, 10}
    noisy = swapped(eval_pairs, wrong)
    clean, report = rank_pairs(eval_pairs, model)
    baseline = report["per_kind"][0]["disagree"]
    kept, report = rank_pairs(noisy, model)
    every = report["per_kind"][0]
    assert every["kind"] == "all"
    assert every["agree"] + every["disagree"] + every["ties"] == len(noisy)
    assert abs(every["disagree"] - len(wrong)) <= baseline
    assert sum(row["disagree"] for row in report["per_kind"][1:]) == every["disagree"]
    assert len(kept) == len(noisy)
    dropped, report = rank_pairs(noisy, model, on_disagreement="drop")
    assert report["n_out"] == len(dropped) == len(noisy) - every["disagree"]
    flipped, _ = rank_pairs(noisy, model, on_disagreement="flip")
    assert all(row["reward_chosen"] >= row["reward_rejected"] for row in flipped)
    assert sum(flipped["flipped"]) == every["disagree"]
    assert flipped[1]["chosen"] == eval_pairs[1]["chosen"], "a wrong label is mended"
    assert flipped[1]["kind"] == "unspecified"
    assert clean["reward_chosen"][0] == pytest.approx(kept["reward_chosen"][0], abs=1e-5)
    with pytest.raises(ConfigError, match="known ones: drop, flip, keep"):
        rank_pairs(noisy, model, on_disagreement="delete")


def test_when_every_pair_is_dropped_it_says_so(model, eval_pairs):
    agreed, _ = rank_pairs(eval_pairs, model, on_disagreement="drop")
    agreed = agreed.select_columns(eval_pairs.column_names)
    with pytest.raises(DataError, match="disagrees with every pair"):
        rank_pairs(swapped(agreed, set(range(len(agreed)))), model, on_disagreement="drop")


def test_the_best_and_the_worst_of_several_answers_become_a_pair(model, eval_pairs):
    prompts = [row["prompt"] for row in eval_pairs]
    answers = [["Anna is.", "Cannot tell.", "Ben is.", "Cannot tell."] for _ in prompts]
    answers[0] = ["Anna is.", "Anna is."]
    ranked, report = rank_candidates(prompts, answers, model, rows=list(eval_pairs))
    assert report["n_prompts"] == len(prompts)
    assert report["all_equal"] == 1
    assert len(ranked) == len(prompts) - 1
    assert ranked[0]["cluster"] == eval_pairs[1]["cluster"]
    assert all(row["reward_chosen"] > row["reward_rejected"] for row in ranked)
    undecided = [row for row in ranked if len(row["prompt"][0]["content"].split(". ")) == 2]
    assert np.mean([row["chosen"][0]["content"] == "Cannot tell." for row in undecided]) > 0.9
    with pytest.raises(InputError, match="100 prompts, 1 lists"):
        rank_candidates(prompts, answers[:1], model)
    with pytest.raises(DataError, match="no prompt has two answers"):
        rank_candidates(prompts[:1], answers[:1], model)


def test_calibration_recovers_a_planted_threshold_and_temperature():
    rng = np.random.default_rng(0)
    rewards = rng.normal(3, 4, 20_000)
    fair = rng.random(20_000) < 1 / (1 + np.exp(-(rewards - 2.0) / 1.5))
    found = fit_calibration(rewards[fair], rewards[~fair])
    assert found["threshold"] == pytest.approx(2.0, abs=0.1)
    assert found["temperature"] == pytest.approx(1.5, abs=0.1)
    assert probability(np.array([found["threshold"]]), found)[0] == pytest.approx(0.5)


def test_rewards_that_know_nothing_or_the_opposite_are_not_calibrated():
    assert fit_calibration(np.array([0.0, 1.0]), np.array([2.0, 3.0])) is None
    assert fit_calibration(np.ones(3), np.ones(3)) is None


def test_classifying_gives_label_probability_and_the_pipelines_reward_in_order(folder, model, eval_pairs):
    from transformers import pipeline

    texts = [render(model.tokenizer, [*row["prompt"], *row[side]]) for row in eval_pairs for side in ("chosen", "rejected")]
    found = list(classify(folder, iter(texts), batch_size=4))
    assert [row["text"] for row in found] == texts
    stock = pipeline("text-classification", model=str(folder))(texts, batch_size=8)
    np.testing.assert_allclose([row["reward"] for row in found], [row["score"] for row in stock], atol=1e-5)
    right = [row["label"] == ("fair", "unfair")[place % 2] for place, row in enumerate(found)]
    assert np.mean(right) > 0.9
    calibration = read_calibration(folder)
    assert all(row["calibrated"] for row in found)
    for row in found:
        expected = 1 / (1 + np.exp(-(row["reward"] - calibration["threshold"]) / calibration["temperature"]))
        assert row["probability"] == pytest.approx(expected)


def test_classifying_reads_lines_only_as_it_needs_them(folder):
    read = []

    def lines():
        for number in range(10_000):
            read.append(number)
            yield f"Anna met Ben {number}"

    stream = classify(folder, lines(), batch_size=2)
    next(stream)
    assert len(read) <= 16


def test_a_text_that_is_not_scored_keeps_its_place_with_a_reason(folder):
    rows = list(classify(folder, ["", "Anna is.", "Anna " * 500], long_texts="refuse"))
    assert [row["label"] is None for row in rows] == [True, False, True]
    assert rows[0]["reason"] == "empty"
    assert "502 tokens" in rows[2]["reason"]


def test_a_text_longer_than_the_context_is_read_in_windows_of_which_the_least_fair_one_decides(folder):
    model, long = RewardModel.load(folder), "Cannot tell. " * 60 + "Anna is. " * 60
    short, read = classify(folder, ["Anna is.", long])
    (expected,) = score_long_texts(model, [long])
    assert "windows" not in short
    assert read["windows"] == expected["n_windows"] > 2
    assert read["reward"] == pytest.approx(expected["reward"], abs=1e-5)
    assert read["reward"] < expected["mean_reward"]


def test_without_a_calibration_it_says_so(folder, tmp_path, caplog):
    plain = shutil.copytree(folder, tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text())
    del config["teachfair_calibration"]
    (plain / "config.json").write_text(json.dumps(config))
    row = next(classify(plain, ["Anna is."]))
    assert row["calibrated"] is False
    assert row["label"] == ("fair" if row["reward"] >= 0 else "unfair")
    assert "uncalibrated" in caplog.text
