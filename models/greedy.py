"""What a policy says to a prompt when nothing is left to chance: the likeliest token at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from teachfair.errors import InputError
from teachfair.models.chat import Message, render, tokenize

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """An answer's text (special tokens removed, trimmed), its tokens up to its end, and whether it came to one.

    ``problem``: ``too long`` for a prompt that fills the model's context, ``no tokens`` for one without any, or "".
    """

    text: str
    n_tokens: int
    finished: bool
    problem: str = ""


class AnswerCache(Protocol):
    """Generated token ids kept by sha256 of (longest answer, prompt ids); one ``put_answers`` for each batch."""

    def get_answers(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]: ...

    def put_answers(self, found: dict[bytes, np.ndarray]) -> None: ...


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    progress: Progress | None = None,
    cache: AnswerCache | None = None,
    strict: bool = True,
) -> list[Answer]:
    """The greedy answer to each prompt; equal prompts are answered once.

    Args:
        prompts: conversations that end with the user's turn, rendered by the chat template.
        max_new_tokens: an answer that is not finished by then is cut off (and says so). Where the longest of the prompts
            leaves less room in the model's context, all answers get that much: they stay comparable.
        cache: asked batch by batch; a batch is generated whole if any of it is missing.
        strict: raise for a prompt that cannot be answered; without it the answer is empty and says so (``problem``).
    A model in 8 bit answers one prompt at a time: its rounding depends on what else stands in the batch.
    Raises: InputError for a prompt that fills the model's context, if ``strict``.
    """
    keys = [tuple(tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))) for prompt in prompts]
    names = [str(prompt[-1]["content"])[:80] if prompt else "" for prompt in prompts]
    return _answered(model, tokenizer, keys, names, max_new_tokens, batch_size, progress, cache, strict)


def greedy_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    progress: Progress | None = None,
    cache: AnswerCache | None = None,
    strict: bool = True,
) -> list[Answer]:
    """As :func:`greedy_answers` for plain texts that the model goes on with: no chat template, BOS first if there is one."""
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    keys = [tuple(bos + tokenize(tokenizer, text)) for text in texts]
    names = [text[-80:] for text in texts]
    return _answered(model, tokenizer, keys, names, max_new_tokens, batch_size, progress, cache, strict)


def _answered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    keys: list[tuple[int, ...]],
    names: list[str],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None,
    cache: AnswerCache | None,
    strict: bool,
) -> list[Answer]:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    answers: dict[tuple[int, ...], Answer] = {}
    for place, (ids, name) in enumerate(zip(keys, names, strict=True)):
        if not 0 < len(ids) < context:
            if strict:
                raise InputError(
                    f"a prompt of {len(ids)} tokens leaves no room for an answer in a context of {context}" if ids
                    else "a prompt has no tokens",
                    where=f"prompt {place}: {name!r}", fix="shorten it, or leave it out",
                )  # fmt: skip
            answers[ids] = Answer("", 0, False, "too long" if ids else "no tokens")
    wanted = sorted(set(keys) - set(answers), key=lambda ids: (-len(ids), ids))
    if not wanted:
        return [answers[ids] for ids in keys]
    max_new_tokens = min(max_new_tokens, context - len(wanted[0]))
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = tokenizer.eos_token_id if ends is None else ends
    stops = {int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
    if getattr(model, "is_loaded_in_8bit", False):
        batch_size = 1
    for start in range(0, len(wanted), batch_size):
        batch = wanted[start : start + batch_size]
        digests = [_digest(one, max_new_tokens) for one in batch]
        known = {} if cache is None else cache.get_answers(digests)
        rows = [known[digest].tolist() for digest in digests if digest in known]
        if len(rows) < len(batch):
            rows = [_to_the_end(row, stops) for row in generated(model, tokenizer, batch, max_new_tokens)]
            if cache is not None:
                cache.put_answers({digest: np.array(row, dtype="<i8") for digest, row in zip(digests, rows, strict=True)})
        for one, row in zip(batch, rows, strict=True):
            finished = bool(row) and row[-1] in stops
            said = row[:-1] if finished else row
            text = tokenizer.decode(said, skip_special_tokens=True).strip()
            answers[one] = Answer(text, len(said), finished)
        if progress is not None:
            progress(min(start + batch_size, len(wanted)), len(wanted))
    return [answers[ids] for ids in keys]


def left_padded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` of sequences that end side by side, on the model's device: (rows, width)."""
    import torch

    pad, width = _pad(tokenizer), max(len(one) for one in batch)
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in batch], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch], device=model.device)
    return {"input_ids": ids, "attention_mask": mask}


def generated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """The tokens that follow each sequence, the likeliest at every step; what follows an end is padding."""
    import torch

    asked = left_padded(model, tokenizer, batch)
    with torch.inference_mode():
        out = model.generate(
            **asked, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
            max_new_tokens=max_new_tokens, pad_token_id=_pad(tokenizer),
        )  # fmt: skip
    return out[:, asked["input_ids"].shape[1] :].tolist()


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)


def _to_the_end(row: list[int], stops: set[int]) -> list[int]:
    """The tokens up to and with the first that ends an answer; what follows is padding."""
    end = next((place for place, token in enumerate(row) if token in stops), None)
    return row if end is None else row[: end + 1]


def _digest(ids: Sequence[int], max_new_tokens: int) -> bytes:
    return hashlib.sha256(np.array([max_new_tokens, *ids], dtype="<i8").tobytes()).digest()
