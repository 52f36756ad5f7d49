"""What a policy says to a prompt when nothing is left to chance: the likeliest token at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from teachfair.errors import InputError
from teachfair.models.chat import Message, render, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """An answer's text (special tokens removed, trimmed), its tokens up to its end, and whether it came to one."""

    text: str
    n_tokens: int
    finished: bool


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """The greedy answer to each prompt; equal prompts are answered once.

    Args:
        prompts: conversations that end with the user's turn, rendered by the chat template.
        max_new_tokens: an answer that is not finished by then is cut off (and says so). Where the longest of the prompts
            leaves less room in the model's context, all answers get that much: they stay comparable.
    A model in 8 bit answers one prompt at a time: its rounding depends on what else stands in the batch.
    Raises: InputError for a prompt that fills the model's context.
    """
    import torch

    keys = [tuple(tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))) for prompt in prompts]
    if not keys:
        return []
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    for place, ids in enumerate(keys):
        if not 0 < len(ids) < context:
            raise InputError(
                f"a prompt of {len(ids)} tokens leaves no room for an answer in a context of {context}",
                where=f"prompt {place}: {str(prompts[place][-1]['content'])[:80]!r}", fix="shorten it, or leave it out",
            )  # fmt: skip
    max_new_tokens = min(max_new_tokens, context - max(len(ids) for ids in keys))
    pad = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = tokenizer.eos_token_id if ends is None else ends
    stops = {int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
    wanted = sorted(set(keys), key=lambda ids: (-len(ids), ids))
    if getattr(model, "is_loaded_in_8bit", False):
        batch_size = 1
    answers: dict[tuple[int, ...], Answer] = {}
    for start in range(0, len(wanted), batch_size):
        batch = wanted[start : start + batch_size]
        width = len(batch[0])
        ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                repetition_penalty=1.0, max_new_tokens=max_new_tokens, pad_token_id=pad,
            )  # fmt: skip
        for one, row in zip(batch, out[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), None)
            said = row if end is None else row[:end]
            text = tokenizer.decode(said, skip_special_tokens=True).strip()
            answers[one] = Answer(text, len(said), end is not None)
        if progress is not None:
            progress(len(answers), len(wanted))
    return [answers[ids] for ids in keys]
