"""Sample candidate answers from the policy itself, for a reward model to rank into pairs."""

from __future__ import annotations

import math
from typing import Any

from teachfair.errors import ConfigError


def sample_answers(
    model: Any, tokenizer: Any, prompts: list[list[dict[str, str]]], *, n: int, seed: int, max_new_tokens: int = 64,
    batch_size: int = 32, temperature: float = 1.0,
) -> list[list[str]]:  # fmt: skip
    """``n`` answers for each prompt, sampled from the full distribution (no top-k, no top-p).

    Args:
        prompts: conversations that end with the user's turn.
        temperature: above 1 the answers differ more from each other; 1 = the policy's own distribution.
    Returns: one list of ``n`` texts for each prompt; special tokens removed.
    Raises: ConfigError for a number of answers, of tokens or a temperature that is not positive.
    """
    import torch
    from transformers import set_seed

    for name, value in (("n", n), ("max_new_tokens", max_new_tokens), ("temperature", temperature)):
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} is {value}", where="sampling", fix="give a number greater than 0")

    set_seed(seed)
    tokenizer.padding_side = "left"
    answers: list[list[str]] = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer.apply_chat_template(
            prompts[start : start + batch_size], add_generation_prompt=True, tokenize=True, padding=True,
            return_tensors="pt", return_dict=True,
        ).to(model.device)  # fmt: skip
        with torch.inference_mode():
            out = model.generate(
                **{key: batch[key] for key in ("input_ids", "attention_mask")}, do_sample=True, temperature=temperature,
                top_k=0, top_p=1.0, num_return_sequences=n, max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        texts = [text.strip() for text in texts]
        answers += [texts[i : i + n] for i in range(0, len(texts), n)]
    return answers
