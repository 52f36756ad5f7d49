"""The output layer on a CPU, in pieces of the vocabulary: log-probabilities without a matrix of logits.

1,000 tokens times a vocabulary of 50,000 are 200 MB of logits, written once and read back three times to be normalised. In
pieces that stay in the processor's cache, the same products and sums take three quarters of the time
(``benchmarks/scoring.py`` times the whole), and the memory no longer grows with the vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PIECE = 1024  # rows of the vocabulary


def plain_output_layer(model: PreTrainedModel) -> torch.nn.Linear | None:
    """The output layer, if logits are nothing but its product with the last hidden states, on a CPU; else None.

    Not plain are quantised and adapted layers (another class), soft-capped and scaled logits, weights that accelerate moves
    between devices. On a GPU one large product is the fast way.
    """
    import torch

    layer = model.get_output_embeddings()
    config = model.config
    plain = (
        type(layer) is torch.nn.Linear
        and type(layer.weight) in (torch.Tensor, torch.nn.Parameter)
        and layer.weight.device.type == "cpu"
        and not hasattr(model, "hf_device_map")
        and "forward" not in vars(layer)
        and not getattr(config, "final_logit_softcapping", None)
        and getattr(config, "logits_scaling", 1) == 1
    )
    return layer if plain else None


@contextlib.contextmanager
def hidden_states_as_logits(layer: torch.nn.Linear) -> Iterator[None]:
    """A context in which the model returns what goes into ``layer``, where its logits would stand.

    The model itself still chooses the tokens (``logits_to_keep``), and hooks and adapters see the usual calls.
    """
    layer.forward = lambda states: states
    try:
        yield
    finally:
        del layer.forward


def target_logprobs(
    states: torch.Tensor, layer: torch.nn.Linear, picks: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities of single tokens, nats.

    Args: states: (kept, hidden); picks, targets: (n,), for each scored token its row of ``states`` and its id.
    Returns: (n,) float64; products and exponentials are computed in the model's precision, in half precision in float32.
    """
    import torch
    from torch.nn import functional

    biases = layer.bias.split(_PIECE) if layer.bias is not None else None
    totals, chosen = [], torch.empty(len(targets), dtype=torch.float64)
    for number, weight in enumerate(layer.weight.split(_PIECE)):
        logits = fp32(functional.linear(states, weight, biases[number] if biases else None))
        here = (targets // _PIECE == number).nonzero()[:, 0]
        chosen[here] = logits[picks[here], targets[here] - number * _PIECE].double()
        # logsumexp in place, with the largest logit added in float64: in float32 a sum near 20 is rounded to 2e-6
        largest = logits.amax(-1, keepdim=True)
        largest = largest.masked_fill(largest.isinf(), 0)
        totals.append(largest[:, 0].double() + logits.sub_(largest).exp_().sum(-1).double().log())
    return chosen - torch.stack(totals).logsumexp(0)[picks]


def fp32(logits: torch.Tensor) -> torch.Tensor:
    """Half precision widened; float64 kept."""
    return logits.float() if logits.element_size() < 4 else logits
