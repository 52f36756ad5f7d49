"""Whether a model can score packed rows exactly, and if not, why.

A packed row needs a model that takes a ready 4-D mask and position ids, and nothing in which a token depends on its place
in the row. :func:`scoring_path` answers by a list of architectures that the tests compare with one sequence at a time, by
what the configuration says, and by a self-check of the very model on a few random tokens.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.models import packing
from teachfair.models.checkpoint import inside_adapter
from teachfair.models.output_layer import fp32, hidden_states_as_logits, plain_output_layer, target_logprobs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# `config.model_type`s whose packed scores the tests compare with one sequence at a time.
PACKED_ARCHITECTURES = frozenset(
    {"gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "opt", "phi", "phi3",
     "qwen2", "qwen3", "smollm3"}
)  # fmt: skip
# Largest difference, nats, between packed and alone in the self-check. In half precision the logits alone are rounded to
# steps of 0.01 (float16) and 0.06 (bfloat16) where they are about 10.
_TOLERANCE = {"torch.float16": 0.05, "torch.bfloat16": 0.25}
_FP32_TOLERANCE = 1e-4

_checked: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], str]] = weakref.WeakKeyDictionary()
_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def scoring_path(model: PreTrainedModel, longest: int | None = None) -> str:
    """``packed``, or ``batched: <why>``: how :mod:`teachfair.models.likelihood` scores with this model.

    The first call for a model runs the self-check: a few short passes.

    Args: longest: tokens of the longest sequence, which a sliding window may not be shorter than; None: any length.
    """
    why = _cannot_pack(model, longest)
    if not why:
        kind = (str(model.dtype), str(model.device), model.config._attn_implementation)
        known = _checked.setdefault(model, {})
        if kind not in known:
            known[kind] = _self_check(model)
        why = known[kind]
    return f"batched: {why}" if why else "packed"


def tell_once(model: PreTrainedModel, path: str) -> None:
    """Log a path that is not ``packed``, once for each model and reason."""
    told = _told.setdefault(model, set())
    if path != "packed" and path not in told:
        told.add(path)
        logger.warning("sequences are scored in padded batches, which is slower (%s)", path)


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether the model can be told which tokens need logits."""
    return "logits_to_keep" in inspect.signature(inside_adapter(model).forward).parameters


def packed_logprobs(model: PreTrainedModel, layout: packing.Layout) -> torch.Tensor:
    """Log-probabilities of the layout's scored tokens, nats: (n,)."""
    import torch

    picks = torch.from_numpy(layout.picks).to(model.device)
    targets = torch.from_numpy(layout.targets).to(model.device)
    plain = plain_output_layer(model)
    if plain is not None:
        with hidden_states_as_logits(plain):
            states = _packed_logits(model, layout)
        return target_logprobs(states, plain, picks, targets)
    logits = _packed_logits(model, layout)
    picks, targets = picks.to(logits.device), targets.to(logits.device)
    # In pieces: a temporary as large as all logits costs more than its arithmetic (page faults on a CPU, memory on a GPU).
    pieces = logits.split(32 if logits.device.type == "cpu" else 2048)
    totals = torch.cat([fp32(piece).logsumexp(-1) for piece in pieces])
    return fp32(logits[picks, targets]) - totals[picks]


def _packed_logits(model: PreTrainedModel, layout: packing.Layout) -> torch.Tensor:
    """Logits of the kept nodes, row by row: (kept, vocabulary)."""
    import torch

    device = model.device
    last = torch.from_numpy(layout.last).to(device)
    node = torch.arange(last.shape[1], device=device)
    sees = (node[None, None, :] <= node[None, :, None]) & (last[:, None, :] >= node[None, :, None])
    mask = sees[:, None]
    if model.config._attn_implementation != "sdpa":  # eager attention adds the mask to its scores
        dtype = model.get_input_embeddings().weight.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
    # `logits_to_keep` is the model's own hook: it keeps scaling and soft-capping of logits right, which gathering hidden
    # states by hand would not.
    return model(
        input_ids=torch.from_numpy(layout.input_ids).to(device),
        attention_mask=mask,
        position_ids=torch.from_numpy(layout.position_ids).to(device),
        use_cache=False,
        logits_to_keep=torch.from_numpy(layout.keep).to(device),
    ).logits


def _cannot_pack(model: PreTrainedModel, longest: int | None) -> str:
    config = model.config
    if config.model_type not in PACKED_ARCHITECTURES:
        return f"packed rows are not verified for the architecture {config.model_type}"
    if any(type(module).__name__ == "Linear8bitLt" and module.state.threshold > 0 for module in model.modules()):
        return "LLM.int8() chooses outlier columns by whole sequence, so that nothing can be shared"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention by {config._attn_implementation} takes no ready mask"
    if any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        return "the adapter puts virtual tokens before the text"
    parameters = inspect.signature(inside_adapter(model).forward).parameters
    if not {"position_ids", "logits_to_keep", "attention_mask"} <= parameters.keys():
        return "the model takes no position ids, or cannot be told which logits to keep"
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and (longest is None or longest > window):
        return f"attention sees {window} tokens back and no further"
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if one.get("rope_type") in ("dynamic", "longrope"):
            return f"rotary positions of kind {one['rope_type']} depend on the longest sequence of a batch"
    return ""


def _self_check(model: PreTrainedModel) -> str:
    """Random sequences that share a beginning, packed and one at a time; "" where the two agree."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    context = getattr(model.config, "max_position_embeddings", None) or 16
    window = getattr(model.config, "sliding_window", None) or 16
    length = min(10, context, window)
    draw = np.random.default_rng(0).integers(0, vocabulary, (4, length)).tolist()
    trunk = draw[0][: length // 2]
    sequences = [tuple(ids) for ids in (draw[0], trunk + draw[1][length // 2 :], draw[2], trunk + draw[3][:1], draw[3])]
    requests = sorted({(ids, 1) for ids in sequences if len(ids) > 1})
    by_hand: list[np.ndarray] = []
    try:
        with torch.inference_mode():
            rows = list(next(packing.plan(packing.passes(requests), hidden=1, tokens=1024, scored=1024)))
            layout = packing.lay(rows)
            found = packed_logprobs(model, layout).double().cpu().numpy()
            for row in rows:
                for one in row.passes:
                    for ids, _ in one.requests:
                        fed = torch.tensor([ids], device=model.device)
                        alone = model(input_ids=fed, use_cache=False).logits[0, :-1].float().log_softmax(-1)
                        by_hand.append(alone.gather(1, fed[0, 1:, None])[:, 0].double().cpu().numpy())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        return f"a packed row made the model fail ({type(error).__name__})"
    expected = np.concatenate(by_hand)
    tolerance = _TOLERANCE.get(str(model.dtype), _FP32_TOLERANCE)
    if not np.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True):
        return f"in the self-check packed scores were off by {np.abs(found - expected).max():.1g} nats"
    return ""
