"""The K likeliest ways in which a policy goes on from a text, by their first token: for benchmarks of completions.

Greedy decoding has one continuation and beams are nearly the same sentence K times. Here each of the K likeliest first
tokens is taken once and continued greedily: K continuations, the same on every run, that part at the first token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from teachfair.errors import InputError
from teachfair.models.chat import tokenize
from teachfair.models.greedy import generated, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WORD = re.compile(r"[^\W\d_][\w\u0300-\u036f]*(?:['’-]\w+)*")
_OPEN = "<[{"  # what is written like markup is no word


@dataclass(frozen=True)
class Continuation:
    """A continuation's text as it follows the context (untrimmed), and the log-probability of its first token, nats."""

    text: str
    logp_first: float


def branching_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    k: int,
    *,
    max_new_tokens: int = 20,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Continuation]]:
    """For each text, its ``k`` likeliest first tokens, each continued greedily; the likeliest first token first.

    Args:
        texts: plain texts, BOS first, no chat template; equal texts are continued once.
        k: how many; special tokens (end of text, pad) are not among them.
        max_new_tokens: length of a continuation in tokens, the first included; less, for all alike, where the longest text
            leaves less room in the model's context.
    Raises: InputError for an empty text without BOS, a text that fills the context, or ``k`` beyond the vocabulary.
    """
    import torch

    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    keys = [tuple(bos + tokenize(tokenizer, text)) for text in texts]
    if not keys:
        return []
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    for place, ids in enumerate(keys):
        if not 0 < len(ids) < context:
            raise InputError(
                f"a text of {len(ids)} tokens cannot be continued in a context of {context}",
                where=f"text {place}: {texts[place][:80]!r}", fix="shorten it, or leave it out",
            )  # fmt: skip
    length = max(1, min(max_new_tokens, context - max(len(ids) for ids in keys)))
    special = sorted({int(token) for token in tokenizer.all_special_ids})
    if k < 1 or k > len(tokenizer) - len(special):
        raise InputError(f"k is {k}", where="branching_continuations", fix="1 or more, and no more than there are tokens")
    if getattr(model, "is_loaded_in_8bit", False):
        batch_size = 1  # its rounding depends on what else stands in the batch

    wanted = sorted(set(keys), key=lambda ids: (-len(ids), ids))
    starts: list[tuple[tuple[int, ...], int, float]] = []
    for place in range(0, len(wanted), batch_size):
        batch = wanted[place : place + batch_size]
        asked = left_padded(model, tokenizer, batch)
        positions = (asked["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = model(**asked, **({"position_ids": positions} if _takes_positions(model) else {})).logits[:, -1]
        logps = torch.log_softmax(logits.float(), dim=-1)
        # rows of the embedding that no token has (padded vocabularies), and special tokens, begin nothing
        logps[:, len(tokenizer) :] = -torch.inf
        logps[:, special] = -torch.inf
        # stable: of two equal logits the lower id comes first, on every machine
        order = torch.sort(logps, dim=-1, descending=True, stable=True)
        for one, ids, values in zip(batch, order.indices[:, :k].tolist(), order.values[:, :k].tolist(), strict=True):
            starts += [(one, token, value) for token, value in zip(ids, values, strict=True)]
    # of one length side by side: less padding
    starts.sort(key=lambda start: -len(start[0]))
    found: dict[tuple[int, ...], list[Continuation]] = {one: [] for one in wanted}
    for place in range(0, len(starts), batch_size):
        part = starts[place : place + batch_size]
        begun = [(*one, token) for one, token, _ in part]
        out = generated(model, tokenizer, begun, length - 1) if length > 1 else [[] for _ in part]
        for (one, token, value), rest in zip(part, out, strict=True):
            ends = [at for at, said in enumerate(rest) if said in special]
            said = [token, *(rest[: ends[0]] if ends else rest)]
            found[one].append(Continuation(_after(tokenizer, list(one), said), value))
        if progress is not None:
            progress(min(place + batch_size, len(starts)), len(starts))
    return [found[ids] for ids in keys]


def next_words(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    k: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """For each text, ``k`` different next words: of its likeliest first tokens, each finished greedily to a whole word.

    A word is the first run of letters of the continuation (inner apostrophes and hyphens kept), if nothing but white space
    and quotation marks stands before it. First tokens that lead to no word, or to one that is there already, are passed
    over; 4·k + 8 of them are tried, so a list may be shorter than ``k``. A tokenizer that writes the space at a word's end
    ("the ") is asked with the space after the text: without it, only longer words could go on.
    """
    if _space_ends_words(tokenizer):
        texts = [text.rstrip() + " " for text in texts]
    tried = min(4 * k + 8, len(tokenizer) - len(set(tokenizer.all_special_ids)))
    found = branching_continuations(model, tokenizer, texts, tried, max_new_tokens=8, progress=progress)
    lists = []
    for text, continuations in zip(texts, found, strict=True):
        words: list[str] = []
        for one in continuations:
            word = first_word(text, one.text)
            if word and word not in words:
                words.append(word)
        lists.append(words[:k])
    return lists


def first_word(context: str, continuation: str) -> str:
    """The word that a continuation begins with, "" if that is something else or goes on with the context's last word."""
    begun = continuation.lstrip(" \t\u00a0\"“«'‘(")
    word = _WORD.match(begun)
    glued = bool(context) and context[-1:].isalnum() and continuation[:1].isalnum()
    return "" if word is None or glued or begun[:1] in _OPEN else word[0]


def _after(tokenizer: PreTrainedTokenizerBase, before: list[int], said: list[int]) -> str:
    # A tokenizer drops a space at the beginning of what it decodes: decoded with what stands before, it is kept.
    whole = str(tokenizer.decode([*before, *said], skip_special_tokens=True))
    context = str(tokenizer.decode(before, skip_special_tokens=True))
    return whole[len(context) :] if whole.startswith(context) else str(tokenizer.decode(said, skip_special_tokens=True))


def _space_ends_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    pieces = tokenizer.convert_ids_to_tokens(tokenize(tokenizer, "the man was in the house and the woman was in the garden"))
    marks = ("▁", "Ġ", " ")
    longer = [piece for piece in pieces if len(piece) > 1]
    return sum(piece.endswith(marks) for piece in longer) > sum(piece.startswith(marks) for piece in longer)


def _takes_positions(model: PreTrainedModel) -> bool:
    import inspect

    return "position_ids" in inspect.signature(model.forward).parameters
