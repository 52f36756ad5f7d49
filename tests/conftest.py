"""What every floor's tests share: the folder of real files, and tiny models made on the spot."""

from __future__ import annotations

import os

# Before torch and transformers are imported: tests run offline and on one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from pathlib import Path

import pytest
from hypothesis import settings
from killing import kill_at  # noqa: F401 (a fixture)
from tiny_models import NF4_CONFIG, lora_adapter, word_tokenizer

# Timing is asserted in no test: a first call on a busy machine takes longer than hypothesis' default deadline.
settings.register_profile("teachfair", deadline=None)
settings.load_profile("teachfair")

REPOSITORY = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real ``data/`` and ``models/``; the test is skipped where there is none."""
    named = os.environ.get("TEACHFAIR_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir() or not (folder / "models").is_dir():
        pytest.skip(
            f"no real files: {folder} holds no data/ and models/; set TEACHFAIR_SHARED to a folder that does"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with tied embeddings: 2 layers, width 64, one token per word. A checkpoint folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    # A wide initialisation: at .02 all logits are nearly equal, and a mistake in scoring would hardly show.
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.2,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 (learned positions, Conv1D): 2 layers, width 64. A checkpoint folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = word_tokenizer()
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=128,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    folder = tmp_path_factory.mktemp("tiny") / "gpt2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lora_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_adapter(tiny_llama, tmp_path_factory.mktemp("tiny") / "lora")


@pytest.fixture(scope="session")
def qlora_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_adapter(tiny_llama, tmp_path_factory.mktemp("tiny") / "qlora", NF4_CONFIG)
