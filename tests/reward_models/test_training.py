"""The reward model learns, is published whole, and a stock pipeline gives its training-time reward."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from teachfair.errors import CheckpointError, ConfigError, DataError, NonFiniteError, RunFolderError
from teachfair.reward_models.rendering import render, templates_agree, token_ids
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.training import reward_args, train_reward_model

PLUMBING = {"max_steps": 3, "per_device_train_batch_size": 8, "disable_tqdm": True, "learning_rate": 1e-3}


def lora(**more):
    from peft import LoraConfig

    # as a command line makes it: with the task type that fails on a classifier
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **more)


def test_importing_the_reward_models_loads_nothing_heavy():
    heavy = "torch transformers trl peft datasets pandas scipy sklearn"
    names = ("training", "scoring", "ranking", "classifying", "calibrating", "rendering")
    modules = ", ".join(f"teachfair.reward_models.{name}" for name in names)
    code = f"import sys, {modules}\nprint([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture(scope="module")
def learned(llama, train_pairs, eval_pairs, tmp_path_factory):
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
def plumbed(llama, gpt2, bert, sentence_bert, train_pairs, eval_pairs, tmp_path_factory):
    """(base, adapt) -> a folder after three steps; made once each."""
    bases, made = {"llama": llama, "gpt2": gpt2, "bert": bert, "sentence_bert": sentence_bert}, {}

    def folder(base, adapt):
        if (base, adapt) not in made:
            out = tmp_path_factory.mktemp("plumbed") / f"{base}-{adapt}"
            peft = lora() if adapt == "lora" else None
            made[base, adapt] = train_reward_model(bases[base], train_pairs, eval_pairs, out, peft_config=peft, **PLUMBING)
        return made[base, adapt]

    return folder


def conversations(pairs):
    return [[*row["prompt"], *row[side]] for row in pairs for side in ("chosen", "rejected")]


def test_it_learns_to_prefer_evidence_and_cannot_tell_on_unseen_pairs(learned):
    record = json.loads((learned / "run.json").read_text())
    accuracy = {row["kind"]: row["accuracy"] for row in record["accuracy"]}
    assert record["status"] == "complete"
    assert accuracy["all"] > 0.9, accuracy
    assert min(accuracy.values()) > 0.9, accuracy
    words = next(row for row in record["shortcuts"] if (row["ruler"], row["kind"]) == ("bag of words", "all"))
    assert accuracy["all"] > words["high"], "better than a ruler that never sees the question"
    assert record["data"]["train"]["n"] == 600
    assert record["data"]["train"]["sources"]["sandbox_like"]["norm"]
    assert record["base"]["hash"]
    assert record["calibration"]["brier"] < 0.1


@pytest.mark.parametrize("peft", [None, lora])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(llama, train_pairs, tmp_path, peft):
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    options = {**PLUMBING, "max_steps": 8, "save_strategy": "steps", "save_steps": 2}

    def train(name, **more):
        adapter = peft() if peft else None
        return train_reward_model(llama, train_pairs, None, tmp_path / name, peft_config=adapter, **{**options, **more})

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", callbacks=[Kill()])
    assert not (tmp_path / "killed").exists()
    resumed = train("killed")
    assert json.loads((resumed / "run.json").read_text())["resumed_from"].endswith("checkpoint-4")
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    # what a killed run with other settings left is not gone on with
    with pytest.raises(KeyboardInterrupt):
        train("other", callbacks=[Kill()], seed=5)
    fresh = train("other")
    assert json.loads((fresh / "run.json").read_text())["resumed_from"] is None
    assert (fresh / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("adapt", ["full", "lora"])
@pytest.mark.parametrize("base", ["llama", "gpt2", "bert", "sentence_bert"])
def test_a_stock_pipeline_gives_the_training_time_reward(plumbed, eval_pairs, base, adapt):
    """200 texts; one at a time and in batches; and the ids are those that TRL's trainers see."""
    from transformers import pipeline
    from trl.data_utils import _tokenize

    folder = plumbed(base, adapt)
    model = RewardModel.load(folder)
    asked = conversations(eval_pairs)
    assert len(asked) == 200
    rewards = model.score(asked)
    assert rewards.std() > 1e-3, "a constant would make the comparison empty"
    texts = [render(model.tokenizer, messages) for messages in asked]
    stock = pipeline("text-classification", model=str(folder))
    single = [stock(text)[0] for text in texts]
    assert {row["label"] for row in single} == {"fairness_reward"}
    np.testing.assert_allclose([row["score"] for row in single], rewards, atol=1e-5)
    np.testing.assert_allclose([row["score"] for row in stock(texts, batch_size=16)], rewards, atol=1e-5)
    np.testing.assert_allclose(model.score_texts(texts, batch_size=7), rewards, atol=1e-5)
    if base == "llama":  # relative positions: the side of the padding does not matter either
        stock.tokenizer.padding_side = "left"
        np.testing.assert_allclose([row["score"] for row in stock(texts, batch_size=16)], rewards, atol=1e-5)
    assert templates_agree(model.tokenizer)
    for messages in asked:
        assert list(_tokenize(model.tokenizer, messages)["input_ids"]) == token_ids(model.tokenizer, messages)
        ids = token_ids(model.tokenizer, messages)
        assert ids[-1] in (model.tokenizer.eos_token_id, model.tokenizer.sep_token_id)
        assert ids[-1] != model.tokenizer.pad_token_id
        assert ids[1] != ids[0], "one start token, not two"


def test_the_reward_of_training_is_the_reward_of_the_published_folder(llama, train_pairs, tmp_path):
    """The trainer's own forward pass on its own ids, just before saving, against the folder."""
    import torch
    from transformers import TrainerCallback

    seen = {}

    class Look(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):
            ids = [torch.tensor(row["chosen_ids"]) for row in train_dataloader.dataset.select(range(20))]
            model.eval()
            with torch.no_grad():
                seen["rewards"] = [model(input_ids=one[None]).logits.item() for one in ids]

    out = train_reward_model(llama, train_pairs, None, tmp_path / "rm", callbacks=[Look()], **PLUMBING)
    first = [[*row["prompt"], *row["chosen"]] for row in train_pairs.select(range(20))]
    np.testing.assert_allclose(RewardModel.load(out).score(first), seen["rewards"], atol=1e-5)


@pytest.mark.parametrize("base", ["llama", "gpt2", "bert", "sentence_bert"])
def test_trls_online_trainers_would_read_the_same_reward(plumbed, eval_pairs, base):
    """TRL's template function, then tokens without special ones: how GRPO and RLOO ask a reward model."""
    import torch
    from trl import apply_chat_template

    model = RewardModel.load(plumbed(base, "full"))
    asked = conversations(eval_pairs)[:64]
    texts = [apply_chat_template({"messages": messages}, model.tokenizer)["text"] for messages in asked]
    inputs = model.tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.no_grad():
        online = model.model(**inputs).logits[:, 0].numpy()
    np.testing.assert_allclose(online, model.score(asked), atol=1e-5)


@pytest.mark.parametrize("base", ["llama", "bert", "sentence_bert"])
def test_the_merged_folder_scores_like_base_plus_adapter(plumbed, eval_pairs, base):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder = plumbed(base, "lora")
    merged = RewardModel.load(folder)
    origin = json.loads((folder / "run.json").read_text())["base"]["path"]
    # another random head (and pooler) on reload: the adapter must bring its own
    torch.manual_seed(99)
    plain = AutoModelForSequenceClassification.from_pretrained(origin, num_labels=1, dtype=torch.float32)
    plain.config.pad_token_id = merged.tokenizer.pad_token_id
    adapted = PeftModel.from_pretrained(plain, folder / "adapter")
    adapted.config = merged.model.config
    asked = conversations(eval_pairs)[:40]
    expected = RewardModel(adapted, merged.tokenizer).score(asked)
    np.testing.assert_allclose(merged.score(asked), expected, atol=1e-5)


def test_a_published_folder_holds_no_pickle_and_says_what_it_is(plumbed):
    for adapt in ("full", "lora"):
        folder = plumbed("llama", adapt)
        names = {path.name for path in folder.rglob("*")}
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        config = json.loads((folder / "config.json").read_text())
        assert config["problem_type"] == "regression"
        assert config["id2label"] == {"0": "fairness_reward"}
        assert json.loads((folder / "run.json").read_text())["adapt"] == adapt
        assert not list(folder.parent.glob(".*")), "no intermediate files are left beside it"


def test_the_same_seed_gives_the_same_rewards_and_another_seed_others(llama, train_pairs, eval_pairs, tmp_path):
    asked = conversations(eval_pairs)[:20]

    def rewards(name, seed):
        out = train_reward_model(llama, train_pairs, None, tmp_path / name, seed=seed, **PLUMBING)
        return RewardModel.load(out).score(asked)

    first = rewards("a", 1)
    assert (first == rewards("b", 1)).all()
    assert abs(first - rewards("c", 2)).max() > 1e-4


def test_a_loss_that_is_not_finite_stops_naming_the_step_and_saves_nothing(llama, train_pairs, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step \d+"):
        train_reward_model(
            llama,
            train_pairs,
            None,
            tmp_path / "rm",
            **{**PLUMBING, "learning_rate": 1e30, "max_grad_norm": 0.0},
        )
    assert not list(tmp_path.iterdir())


def test_a_base_with_a_nan_weight_stops_at_the_first_step(llama, train_pairs, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / "base")
    with pytest.raises(NonFiniteError, match="step 1,"):
        train_reward_model(tmp_path / "base", train_pairs, None, tmp_path / "rm", **PLUMBING)
    assert not (tmp_path / "rm").exists()


def test_bf16_on_a_cpu_is_refused_in_one_sentence(llama, train_pairs, tmp_path):
    with pytest.raises(ConfigError, match="bf16 was asked for"):
        reward_args(tmp_path, bf16=True, use_cpu=True)
    args = reward_args(tmp_path, use_cpu=True)
    assert args.bf16 is False
    args.bf16 = True
    with pytest.raises(ConfigError, match="bf16 was asked for"):
        train_reward_model(llama, train_pairs, None, tmp_path / "rm", args=args)


def test_bad_bases_and_folders_are_refused_before_any_training(llama, train_pairs, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot start from an adapter"):
        train_reward_model(tmp_path / "adapter", train_pairs, None, tmp_path / "rm", **PLUMBING)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        train_reward_model(tmp_path / "nothing", train_pairs, None, tmp_path / "rm", **PLUMBING)
    with pytest.raises(RunFolderError, match="not empty"):
        train_reward_model(llama, train_pairs, None, tmp_path, **PLUMBING)
    with pytest.raises(DataError, match="no pairs"):
        train_reward_model(llama, train_pairs.select([]), None, tmp_path / "rm", **PLUMBING)
    with pytest.raises(ConfigError, match="refuses an option"):
        train_reward_model(llama, train_pairs, None, tmp_path / "rm", learning_rat=1)


def test_pairs_that_are_too_long_are_counted_and_not_cut(llama, train_pairs, eval_pairs, tmp_path, caplog):
    long = train_pairs.select(range(20)).to_list()
    long[3]["chosen"] = [{"role": "assistant", "content": "Anna is. " * 100}]
    from teachfair.data.pairs import pairs_dataset

    with caplog.at_level(logging.WARNING):
        out = train_reward_model(llama, pairs_dataset(long), eval_pairs, tmp_path / "rm", **PLUMBING)
    assert json.loads((out / "run.json").read_text())["data"]["dropped_too_long"] == 1
    assert "1 of 20 pairs" in caplog.text


@pytest.mark.shared
@pytest.mark.parametrize("base", ["stories260K", "tinystories-656k"])
def test_real_checkpoints_and_real_pairs_keep_the_promise(shared, base, tmp_path):
    """The second tokenizer merges across words and marks only the first word of a text."""
    from transformers import pipeline

    from teachfair.data.sources import stereoset_pairs

    pairs = stereoset_pairs.load(shared / "data" / "stereoset_pairs_phd", axes=["gender"])
    some = pairs.select(range(0, 160))
    out = train_reward_model(shared / "models" / base, some, pairs.select(range(160, 260)), tmp_path / "rm", **PLUMBING)
    model = RewardModel.load(out)
    asked = conversations(pairs.select(range(160, 260)))
    texts = [render(model.tokenizer, messages) for messages in asked]
    stock = pipeline("text-classification", model=str(out))
    np.testing.assert_allclose([row["score"] for row in stock(texts, batch_size=8)], model.score(asked), atol=1e-5)
    assert json.loads((out / "run.json").read_text())["chat_template_gives_the_same_ids"]
