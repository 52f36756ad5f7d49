"""The K likeliest ways in which a policy goes on from a text, by their first token: for benchmarks of completions.

Greedy decoding has one continuation and beams are nearly the same sentence K times. Here each of the K likeliest first
tokens is taken once and continued greedily: K continuations, the same on every run, that part at the first token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from teachfair.errors import InputError, NonFiniteError
from teachfair.models.chat import tokenize
from teachfair.models.greedy import generated, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WORD = re.compile(r"[^\W\d_][\w\u0300-\u036f]*(?:['’-]\w+)*")
_OPEN = "<[{"  # what is written like markup is no word
# The likeliest first tokens of one text, the likeliest first: ids and log-probabilities in nats, (k,).
FIRST_TOKENS = np.dtype([("token", "<i8"), ("logp", "<f8")])


@dataclass(frozen=True)
class Continuation:
    """A continuation's text as it follows the context (untrimmed), and the log-probability of its first token, nats."""

    text: str
    logp_first: float


class BranchCache(Protocol):
    """First tokens, and what follows each, kept by sha256 of (how many, ids); one ``put_…`` for each batch."""

    def get_starts(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]: ...

    def put_starts(self, found: dict[bytes, np.ndarray]) -> None: ...

    def get_rests(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]: ...

    def put_rests(self, found: dict[bytes, np.ndarray]) -> None: ...


def branching_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    k: int,
    *,
    max_new_tokens: int = 20,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    cache: BranchCache | None = None,
    strict: bool = True,
) -> list[list[Continuation]]:
    """For each text, its ``k`` likeliest first tokens, each continued greedily; the likeliest first token first.

    Args:
        texts: plain texts, BOS first, no chat template; equal texts are continued once.
        k: how many; special tokens (end of text, pad) are not among them.
        max_new_tokens: length of a continuation in tokens, the first included; less, for all alike, where the longest text
            leaves less room in the model's context.
        cache: asked batch by batch; a batch is computed whole if any of it is missing. Nothing is kept of a text whose
            logits are not finite.
        strict: raise for a text that cannot be continued; without it, it has no continuations.
    Raises: InputError for ``k`` beyond the vocabulary and, if ``strict``, for an empty text without BOS or one that fills
        the context; NonFiniteError, if ``strict``, where the logits after a text are NaN or infinite.
    """
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    keys = [tuple(bos + tokenize(tokenizer, text)) for text in texts]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    for place, ids in enumerate(keys):
        if strict and not 0 < len(ids) < context:
            raise InputError(
                f"a text of {len(ids)} tokens cannot be continued in a context of {context}",
                where=f"text {place}: {texts[place][:80]!r}", fix="shorten it, or leave it out",
            )  # fmt: skip
    special = sorted({int(token) for token in tokenizer.all_special_ids})
    if k < 1 or k > len(tokenizer) - len(special):
        raise InputError(f"k is {k}", where="branching_continuations", fix="1 or more, and no more than there are tokens")
    if getattr(model, "is_loaded_in_8bit", False):
        batch_size = 1  # its rounding depends on what else stands in the batch

    wanted = sorted({ids for ids in keys if 0 < len(ids) < context}, key=lambda ids: (-len(ids), ids))
    length = max(1, min(max_new_tokens, context - max((len(ids) for ids in wanted), default=0)))
    starts: list[tuple[tuple[int, ...], int, float]] = []
    for place in range(0, len(wanted), batch_size):
        batch = wanted[place : place + batch_size]
        for one, first in zip(batch, _first_tokens(model, tokenizer, batch, k, special, cache), strict=True):
            if np.isfinite(first["logp"]).all():
                starts += [(one, token, value) for token, value in first.tolist()]
            elif strict:
                raise NonFiniteError(
                    "the model's logits are NaN or infinite", where=f"text {texts[keys.index(one)][:80]!r}",
                    fix="the weights are damaged or training diverged; check the checkpoint first",
                )  # fmt: skip
    # of one length side by side: less padding
    starts.sort(key=lambda start: -len(start[0]))
    found: dict[tuple[int, ...], list[Continuation]] = {ids: [] for ids in keys}
    for place in range(0, len(starts), batch_size):
        part = starts[place : place + batch_size]
        begun = [(*one, token) for one, token, _ in part]
        rests = _rests(model, tokenizer, begun, length - 1, special, cache) if length > 1 else [[] for _ in part]
        for (one, token, value), rest in zip(part, rests, strict=True):
            found[one].append(Continuation(_after(tokenizer, list(one), [token, *rest]), value))
        if progress is not None:
            progress(min(place + batch_size, len(starts)), len(starts))
    return [found[ids] for ids in keys]


def _first_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[tuple[int, ...]],
    k: int,
    special: list[int],
    cache: BranchCache | None,
) -> list[np.ndarray]:
    """For each sequence its ``k`` likeliest next tokens that are not ``special``: (k,) of :data:`FIRST_TOKENS`."""
    import torch

    digests = [_digest(one, k) for one in batch]
    known = {} if cache is None else cache.get_starts(digests)
    if all(digest in known for digest in digests):
        return [known[digest] for digest in digests]
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
    found = np.empty((len(batch), k), dtype=FIRST_TOKENS)
    found["token"], found["logp"] = order.indices[:, :k].cpu().numpy(), order.values[:, :k].cpu().numpy()
    if cache is not None:
        kept = zip(digests, found, strict=True)
        cache.put_starts({digest: first for digest, first in kept if np.isfinite(first["logp"]).all()})
    return list(found)


def _rests(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    begun: Sequence[tuple[int, ...]],
    length: int,
    special: list[int],
    cache: BranchCache | None,
) -> list[list[int]]:
    """What follows each sequence greedily, at most ``length`` tokens, before the first that is ``special``."""
    digests = [_digest(one, length) for one in begun]
    known = {} if cache is None else cache.get_rests(digests)
    if all(digest in known for digest in digests):
        return [known[digest].tolist() for digest in digests]
    found = []
    for said in generated(model, tokenizer, begun, length):
        ends = [place for place, token in enumerate(said) if token in special]
        found.append(said[: ends[0]] if ends else said)
    if cache is not None:
        cache.put_rests({digest: np.array(said, dtype="<i8") for digest, said in zip(digests, found, strict=True)})
    return found


def _digest(ids: Sequence[int], count: int) -> bytes:
    return hashlib.sha256(np.array([count, *ids], dtype="<i8").tobytes()).digest()


def next_words(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    k: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    cache: BranchCache | None = None,
    strict: bool = True,
) -> list[list[str]]:
    """For each text, ``k`` different next words: of its likeliest first tokens, each finished greedily to a whole word.

    A word is the first run of letters of the continuation (inner apostrophes and hyphens kept), if nothing but white space
    and quotation marks stands before it. First tokens that lead to no word, or to one that is there already, are passed
    over; 4·k + 8 of them are tried, so a list may be shorter than ``k``. A tokenizer that writes the space at a word's end
    ("the ") is asked with the space after the text: without it, only longer words could go on. ``cache`` and ``strict`` are
    those of :func:`branching_continuations`.
    """
    if _space_ends_words(tokenizer):
        texts = [text.rstrip() + " " for text in texts]
    tried = min(4 * k + 8, len(tokenizer) - len(set(tokenizer.all_special_ids)))
    found = branching_continuations(
        model, tokenizer, texts, tried, max_new_tokens=8, progress=progress, cache=cache, strict=strict
    )
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
