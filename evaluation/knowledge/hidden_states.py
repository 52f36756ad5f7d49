"""The residual stream of a causal language model at one word of each text, layer by layer.

Site 0 is what enters the first block (embeddings, with positions where the architecture adds them there), site l what
block l gives, site L what the last block gives, before the final norm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from teachfair.errors import InputError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Change = Callable[[torch.Tensor], torch.Tensor]

MAX_TOKENS = 4096  # padded tokens of one batch: bounds memory, and depends on nothing but the texts


@dataclass(frozen=True)
class GroupText:
    """A text, the word in it that names a person (``text[start:end]``), and that person's group on each axis.

    ``word`` is the type that cross-validation keeps together. ``rendered``: the text is a rendered conversation, which
    brings its own special tokens; else BOS is put before it, where the tokenizer has one.
    """

    text: str
    start: int
    end: int
    word: str
    groups: Mapping[str, str]
    template: str = ""
    lang: str = "en"
    rendered: bool = False


def blocks_of(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """The decoder's blocks, first to last. Raises: InputError where they cannot be told."""
    import torch

    wanted = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return list(module)
    raise InputError(
        "the model has no list of as many blocks as its config has layers", where=type(model).__name__,
        fix="probe a decoder whose blocks stand in one ModuleList (Llama, Qwen, GPT-2, GPT-NeoX, OPT and their like)",
    )  # fmt: skip


@contextlib.contextmanager
def changed_at(model: PreTrainedModel, changes: Mapping[int, Change]) -> Iterator[None]:
    """Within the block, the residual stream at each site is passed through its change, at every position."""
    blocks = blocks_of(model)
    unknown = set(changes) - set(range(len(blocks) + 1))
    if unknown:
        raise InputError(f"no site {sorted(unknown)}", where="changed_at", fix=f"sites are 0 to {len(blocks)}")
    handles = [_attach(blocks, site, change) for site, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(blocks: Sequence[Any], site: int, change: Change) -> Any:
    if site == 0:
        return blocks[0].register_forward_pre_hook(lambda _, args, kwargs: _entering(args, kwargs, change), with_kwargs=True)
    return blocks[site - 1].register_forward_hook(lambda _, args, out: _leaving(out, change))


def _entering(args: tuple[Any, ...], kwargs: dict[str, Any], change: Change) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


def _leaving(out: Any, change: Change) -> Any:
    return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)


def hidden_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[GroupText],
    *,
    pooling: Literal["last", "mean"] = "last",
    sites: Sequence[int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> NDArray[np.float32]:
    """(n_texts, n_sites, width) float32: each text's word at each site, all sites by default.

    Args: pooling: the word's last token, or the mean over its tokens. A text is read up to its word's end only: nothing
        behind it can reach there.
    Only the word's rows are kept of each batch. Deterministic: the batches depend on the texts and ``max_tokens`` alone.
    Raises: InputError for a tokenizer without offsets, a word that no token covers, a text longer than the context, and
        states that are not finite.
    """
    import torch

    blocks = blocks_of(model)
    sites = range(len(blocks) + 1) if sites is None else sites
    encoded = [_encode(tokenizer, text) for text in texts]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    for (ids, _), text in zip(encoded, texts, strict=True):
        if len(ids) > context:
            raise InputError(
                f"{len(ids)} tokens do not fit a context of {context}", where=repr(text.text[:80]), fix="shorten the text"
            )
    width = model.get_input_embeddings().embedding_dim
    found = np.empty((len(texts), len(sites), width), dtype=np.float32)
    captured: dict[int, Any] = {}

    def keep(site: int) -> Change:
        def change(states: torch.Tensor) -> torch.Tensor:
            captured[site] = states.detach()
            return states

        return change

    pad = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
    with changed_at(model, {site: keep(site) for site in sites}), torch.inference_mode():
        for rows in _batches([len(ids) for ids, _ in encoded], max_tokens):
            longest = max(len(encoded[row][0]) for row in rows)
            ids = torch.tensor([encoded[row][0] + [pad] * (longest - len(encoded[row][0])) for row in rows])
            mask = torch.tensor([[1] * len(encoded[row][0]) + [0] * (longest - len(encoded[row][0])) for row in rows])
            _decoder(model)(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
            for column, site in enumerate(sites):
                for place, row in enumerate(rows):
                    first = encoded[row][1]
                    word = captured[site][place, first : len(encoded[row][0])].float()
                    found[row, column] = (word[-1] if pooling == "last" else word.mean(dim=0)).cpu().numpy()
            captured.clear()
    if not np.isfinite(found).all():
        row = int(np.argwhere(~np.isfinite(found))[0][0])
        raise InputError(
            "hidden states are not finite", where=repr(texts[row].text[:80]),
            fix="the checkpoint is broken, or load it in float32",
        )  # fmt: skip
    return found


def _decoder(model: Any) -> Any:
    """The model without its head: logits of every position would be the largest array of all."""
    inner = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    return inner.base_model


def _encode(tokenizer: PreTrainedTokenizerBase, text: GroupText) -> tuple[list[int], int]:
    """Token ids up to the word's last token, and the index of its first one."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "the tokenizer gives no offsets, so a word's tokens cannot be found", where=type(tokenizer).__name__,
            fix="use the checkpoint's fast tokenizer (tokenizer.json)",
        )  # fmt: skip
    made = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    over = [i for i, (start, end) in enumerate(made["offset_mapping"]) if start < text.end and end > text.start]
    if not over:
        raise InputError(
            f"no token covers {text.text[text.start : text.end]!r}", where=repr(text.text[:80]),
            fix="check start and end, and that the tokenizer keeps the word",
        )  # fmt: skip
    bos = [] if text.rendered or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*bos, *made["input_ids"][: over[-1] + 1]], len(bos) + over[0]


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
