"""LLM.int8() layers whose outlier columns are chosen for each sequence of a batch, not for the batch.

LLM.int8() computes a column of activations in full precision as soon as any row of the batch has an outlier
in it (Dettmers et al. 2022, arXiv:2208.07339, section 3.2), so a sentence's likelihood depends on its
neighbours, and on padding. Choosing the columns
for each sequence gives what the layer gives when the sequence is alone, up to fp32 noise. That noise can be
seen: activations are rounded to 8 bits, and where it crosses a rounding border a score jumps (a relative
noise of 1e-6 in the embeddings of a 260 k model moved some sentences by .9 nats, half of them by less than
1e-4).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class Batch:
    """What the layers must know of the batch that is being computed.

    ``mask`` (rows, width), True at real tokens. ``alone`` is set by a layer that could not tell the sequences
    apart (a mixture of experts hands tokens around): then only batches of one sequence are right.
    """

    mask: torch.Tensor | None = None
    alone: bool = False


@contextlib.contextmanager
def outliers_by_sequence(model: Any) -> Iterator[Batch | None]:
    """While open, LLM.int8() layers of ``model`` treat each row of a batch as if it were alone.

    Yields: the batch state, whose ``mask`` is to be set before each forward pass; None if no layer needs it.
    """
    layers = [
        module
        for module in model.modules()
        if type(module).__name__ == "Linear8bitLt" and module.state.threshold > 0
    ]
    if not layers:
        yield None
        return
    batch = Batch()
    hidden = [(layer, layer.__dict__.get("forward")) for layer in layers]
    try:
        for layer in layers:
            layer.forward = functools.partial(_forward, layer, layer.forward, batch)
        yield batch
    finally:
        for layer, forward in hidden:
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = forward


def _forward(layer: Any, stock: Callable[[Any], Any], batch: Batch, inputs: torch.Tensor) -> torch.Tensor:
    """(rows, width, in) -> (rows, width, out), as ``stock`` gives for each row without its pads."""
    import torch
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    state = layer.state
    if state.CB is None:
        stock(inputs[:1])  # its first call moves the weights into the state
    rounded = inputs.half()  # the precision in which the kernel compares and quantises
    outliers = rounded.abs() >= state.threshold
    if not bool(outliers.any()):
        return stock(inputs)
    if batch.mask is None or inputs.dim() != 3 or inputs.shape[:2] != batch.mask.shape:
        batch.alone = True
        return stock(inputs)
    columns = (outliers & batch.mask[:, :, None]).any(1, keepdim=True)
    quantised, scales, _ = int8_vectorwise_quant(
        rounded.masked_fill(outliers, 0).flatten(0, 1), threshold=0.0
    )
    quantised = quantised.view_as(inputs).masked_fill(columns, 0)
    bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
    outputs = torch.ops.bitsandbytes.int8_scaled_mm.default(
        quantised.flatten(0, 1), state.CB, scales, state.SCB, bias=bias, dtype=inputs.dtype
    )
    # The same sum over columns as alone: a column that is kept for another row only is multiplied by zero
    # here.
    kept = columns.any(0)[0].nonzero()[:, 0]
    weights = int8_vectorwise_dequant(state.CB[:, kept].contiguous(), state.SCB).to(inputs.dtype)
    outputs = outputs.addmm((inputs[..., kept] * columns[..., kept]).flatten(0, 1), weights.t())
    return outputs.view(*inputs.shape[:2], -1)
