"""Log-likelihood of texts of any length: windows as long as the model's context, each token scored once.

A token sees what stands before it in its own window, and a window's first token the last token of the window before (the
beginning of the text: BOS). The last window is as long as the others and begins earlier instead; of it only the tokens that
no other window scored are. This is lm-eval's ``loglikelihood_rolling`` with ``max_length`` one less than the context, since
one position is taken by the token before the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from teachfair.models.chat import tokenize
from teachfair.models.likelihood import Cache, Progress, TextScore, kept, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WITHOUT_LIMIT = 2048  # tokens of a window where the model's configuration names no context


def rolling_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    window: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    strict: bool = True,
) -> list[TextScore]:
    """Each text token by token, nats; without a BOS its first token is NaN.

    Args: window: predicted tokens of a window; default: the context less one. With strict=False a text whose logits are
        NaN has the problem "not finite".
    Raises: NonFiniteError on NaN logits.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _WITHOUT_LIMIT
    size = min(window or context - 1, context - 1)
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    all_ids = [tokenize(tokenizer, text) for text in texts]
    windows: list[list[int]] = []
    starts: list[int] = []
    owners: list[int] = []
    for place, ids in enumerate(all_ids):
        stream = bos + ids
        for start in range(1, len(stream), size):
            end = min(start + size, len(stream))
            begin = max(0, end - size - 1)
            windows.append(stream[begin:end])
            starts.append(start - begin)
            owners.append(place)
    found = token_logprobs(
        model, windows, starts, names=[f"text {place}" for place in owners], progress=progress, cache=cache,
        strict=strict,
    )  # fmt: skip
    broken = {place for place, values in zip(owners, found, strict=True) if not np.isfinite(values).all()}
    parts: list[list[np.ndarray]] = [[] if bos or not ids else [np.array([np.nan])] for ids in all_ids]
    for place, values in zip(owners, found, strict=True):
        parts[place].append(values)
    scores = []
    for place, (text, ids, part) in enumerate(zip(texts, all_ids, parts, strict=True)):
        dropped, n_bytes = kept(tokenizer, text, ids)
        problem = "not finite" if place in broken else "" if part else "no tokens"
        scores.append(TextScore(tuple(ids), np.concatenate(part) if part else np.empty(0), dropped, problem, n_bytes))
    return scores
