"""Tiny models made on the spot, for the tests of every floor.

Not in conftest.py: two files of that name hide each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = """
the a who was is late first there and in at not to tom ann ben eva nurse pilot cook baker doctor met came home
left saw knew said she he they her his woman man cannot tell yes no indeed perhaps kitchen station market
early happy sad tall old young ? . , : User Assistant
""".split()


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


def logits_of(model: Any, length: int = 12, seed: int = 0) -> Any:
    """Logits on two fixed random sequences, (2, length, vocabulary)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, model.get_input_embeddings().weight.shape[0], (2, length), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids).logits


VOCABULARY = 60  # of the models below


def tiny(kind: str, **options: Any) -> Any:
    """A random model of an architecture: 2 layers, width 32, 4 heads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    special = {
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2},
        "gpt2": {"n_inner": 64},
        "llama": {"num_key_value_heads": 2},
        "qwen2": {"num_key_value_heads": 2},
        "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
        "mistral": {"num_key_value_heads": 2, "sliding_window": None},
        "gemma": {"num_key_value_heads": 2, "head_dim": 8},
        "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
        "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
        "phi3": {"num_key_value_heads": 2, "sliding_window": None},
    }.get(kind, {})
    config = AutoConfig.for_model(kind, **{**shape, "initializer_range": 0.2, **special, **options})
    return AutoModelForCausalLM.from_config(config).eval()
