"""What makes inference in float32 faster on a CPU and leaves every number as it is, up to rounding.

**Linear layers through oneDNN.** PyTorch multiplies float32 matrices by its BLAS, usually MKL, which on a processor that is
not Intel's takes a path of half the speed (one thread of an AVX-512 AMD: 104 against 210 GFLOP/s at 384 × 1536;
``benchmarks/reward_scoring.py`` times a whole model with and without). oneDNN, which PyTorch carries too, chooses by what
the processor can do. Both compute in float32 and differ in the order of their sums, by about 1e-7 of a number's size. Taken
are layers of GPT-2 too, whose weights lie transposed.

**GPT-2's activation inside of the layer before it.** transformers writes its GELU (tanh form) as eight operations, each a
pass over memory; PyTorch has the same formula as one, and oneDNN applies it to a layer's output before that is written.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.overrides import TorchFunctionMode

# Below this many multiplications oneDNN's own overhead is more than it saves. A rule of shapes, not a stopwatch: the same
# batch must give the same bits in every run on one machine.
_SMALLEST = 2**21


@contextlib.contextmanager
def fast_on_cpu(model: nn.Module) -> Iterator[None]:
    """A context for inference with ``model``; off the CPU, or in another precision, it changes nothing.

    Args: model: with ``device`` and ``dtype``, as transformers' models have.
    """
    import torch

    if model.device.type != "cpu" or model.dtype != torch.float32:
        yield
        return
    with contextlib.ExitStack() as stack:
        if torch.backends.mkldnn.is_available():
            stack.enter_context(_linear_by_onednn())
            stack.enter_context(_layers_with_gelu(model))
        yield


@contextlib.contextmanager
def _layers_with_gelu(model: nn.Module) -> Iterator[None]:
    """GPT-2's feed-forward blocks: ``c_fc`` gives what ``act`` would, and ``act`` hands it on."""
    from transformers.activations import NewGELUActivation
    from transformers.pytorch_utils import Conv1D

    found: list[nn.Module] = []
    for block in model.modules():
        pair = getattr(block, "c_fc", None), getattr(block, "act", None)
        stock = type(pair[0]) is Conv1D and type(pair[1]) is NewGELUActivation
        if stock and not any("forward" in vars(one) for one in pair):  # what someone patched stays patched
            found += pair
    for layer, activation in zip(found[::2], found[1::2], strict=True):
        layer.forward = functools.partial(_with_gelu, layer)
        activation.forward = _as_it_is
    try:
        yield
    finally:
        for one in found:
            del one.forward


def _with_gelu(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn import functional

    fused, weight = _fused_linear(), layer.weight.t()
    if fused is None or torch.is_grad_enabled() or states.numel() * len(weight) < _SMALLEST:
        return functional.gelu(type(layer).forward(layer, states), approximate="tanh")
    return fused(states.contiguous(), weight, layer.bias, "gelu", [], "tanh")


def _as_it_is(states: torch.Tensor) -> torch.Tensor:
    return states


def _fused_linear() -> Any:
    """The operator that torch.compile calls, which has no backward pass; None where a PyTorch lacks it."""
    import torch

    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _linear_by_onednn() -> TorchFunctionMode:
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    fused = _fused_linear()

    def linear(states: Any, weight: Any, bias: Any) -> Any:
        if fused is None or torch.is_grad_enabled():
            # the public conversion computes the same, with two more copies of the activations
            return functional.linear(states.to_mkldnn(), weight, bias).to_dense()
        return fused(states.contiguous(), weight, bias, "none", [], "")

    def worth_it(states: Any, weight: Any, outputs: int) -> bool:
        plain = type(weight) in (torch.Tensor, torch.nn.Parameter)  # a quantised weight is a subclass
        return plain and states.dtype == weight.dtype == torch.float32 and states.numel() * outputs >= _SMALLEST

    class LinearByOneDNN(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is functional.linear and len(args) == 3 and not kwargs:
                states, weight, bias = args
                if worth_it(states, weight, len(weight)):
                    return linear(states, weight, bias)
            elif func is torch.addmm and len(args) == 3 and not kwargs:  # the Conv1D of GPT-2
                bias, states, weight = args
                if bias.dim() == 1 and states.dim() == weight.dim() == 2 and worth_it(states, weight, weight.shape[1]):
                    return linear(states, weight.t(), bias)
            return func(*args, **(kwargs or {}))

    return LinearByOneDNN()
