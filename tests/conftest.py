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
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

WORDS = """
the a who was is late first there and in at not to tom ann ben eva nurse pilot cook baker doctor met came home
left saw knew said she he they her his woman man cannot tell yes no indeed perhaps kitchen station market
early happy sad tall old young ? . , : User Assistant
""".split()


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


def word_tokenizer() -> Any:
    """One word = one token; unknown words are <unk>; the chat template ends turns with </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    )
    return fast


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


def lora_adapter(base: Path, out: Path, quantization: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A LoRA adapter folder with random weights on ``base``, as a trainer saves it; QLoRA if quantised."""
    import torch
    from peft import LoraConfig, get_peft_model

    from teachfair.models.checkpoint import load_base, load_tokenizer, write_manifest

    torch.manual_seed(seed)
    model = get_peft_model(
        load_base(base, quantization=quantization),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start of training: an adapter that changes nothing proves nothing
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)
    write_manifest(out, base=base, quantization=quantization)
    return out


NF4_CONFIG = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_use_double_quant": True,
}


@pytest.fixture(scope="session")
def lora_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_adapter(tiny_llama, tmp_path_factory.mktemp("tiny") / "lora")


@pytest.fixture(scope="session")
def qlora_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_adapter(tiny_llama, tmp_path_factory.mktemp("tiny") / "qlora", NF4_CONFIG)


def logits_of(model: Any, length: int = 12, seed: int = 0) -> Any:
    """Logits on two fixed random sequences, (2, length, vocabulary)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, model.get_input_embeddings().weight.shape[0], (2, length), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids).logits
