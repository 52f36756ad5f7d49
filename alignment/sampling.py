"""Sample candidate answers from the policy itself, for a reward model to rank into pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset


def sample_answers(
    model: Any, tokenizer: Any, prompts: list[list[dict[str, str]]], *, n: int, seed: int, max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[list[str]]:  # fmt: skip
    """``n`` answers for each prompt, sampled at temperature 1 from the full distribution.

    Args:
        prompts: conversations that end with the user's turn.
    Returns: one list of ``n`` texts for each prompt; special tokens removed.
    """
    import torch
    from transformers import set_seed

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
                **{key: batch[key] for key in ("input_ids", "attention_mask")}, do_sample=True, temperature=1.0, top_k=0,
                top_p=1.0, num_return_sequences=n, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        texts = [text.strip() for text in texts]
        answers += [texts[i : i + n] for i in range(0, len(texts), n)]
    return answers


def candidate_pairs(policy: str | Path, pairs: Dataset, *, num_candidates: int, seed: int) -> Dataset:
    """Replace each pair's answers by the policy's own: every prompt's distinct samples, paired two by two.

    The sides are in the order sampled; a reward model has to rank them (``on_disagreement="flip"``). Prompts whose
    samples are all the same give no pair.
    Raises: ConfigError if no prompt gives two different answers.
    """
    from teachfair.data.pairs import pairs_dataset
    from teachfair.models.checkpoint import load_policy

    model, tokenizer = load_policy(policy)
    rows = pairs.to_list()
    answers = sample_answers(model, tokenizer, [row["prompt"] for row in rows], n=num_candidates, seed=seed)
    made: list[dict[str, Any]] = []
    for row, found in zip(rows, answers, strict=True):
        distinct = [text for text in dict.fromkeys(found) if text]
        for first, second in zip(distinct[::2], distinct[1::2], strict=False):
            sides = {
                "chosen": [{"role": "assistant", "content": first}],
                "rejected": [{"role": "assistant", "content": second}],
            }
            made.append({**row, **sides, "kind": "unspecified", "source": "policy", "id": f"{row['id']}#{len(made)}"})
    if not made:
        raise ConfigError(
            "the policy gives the same answer every time; there is nothing to rank", where="--candidates policy",
            fix="raise --num_candidates, or rank the pairs' own answers (--candidates pair)",
        )  # fmt: skip
    return pairs_dataset(made)
