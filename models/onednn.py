"""Linear layers on a CPU through oneDNN, for inference in float32.

PyTorch multiplies float32 matrices by its BLAS, usually MKL, which on a processor that is not Intel's takes a path of half
the speed (one thread of an AVX-512 AMD: 104 against 210 GFLOP/s at 384 × 1536; ``benchmarks/reward_scoring.py`` times a
whole model with and without). oneDNN, which PyTorch carries too, chooses by what the processor can do. Both compute in
float32 and differ in the order of their sums, by about 1e-7 of a number's size.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Below this many multiplications oneDNN's own overhead is more than it saves. A rule of shapes, not a stopwatch: the same
# batch must give the same bits in every run on one machine.
_SMALLEST = 2**21


def linear_by_onednn(model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """A context in which large linear layers run through oneDNN; an empty one off the CPU, or in another precision."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    if model.device.type != "cpu" or model.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return contextlib.nullcontext()

    class LinearByOneDNN(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is functional.linear and len(args) == 3 and not kwargs:
                states, weight, bias = args
                plain = type(weight) in (torch.Tensor, torch.nn.Parameter)  # a quantised weight is a subclass
                if plain and states.dtype == weight.dtype == torch.float32 and states.numel() * len(weight) >= _SMALLEST:
                    return functional.linear(states.to_mkldnn(), weight, bias).to_dense()
            elif func is torch.addmm and len(args) == 3 and not kwargs:  # the Conv1D of GPT-2
                bias, states, weight = args
                plain = type(weight) is torch.nn.Parameter and bias.dim() == 1 and states.dim() == 2
                if plain and states.dtype == weight.dtype == torch.float32 and states.numel() * weight.shape[1] >= _SMALLEST:
                    return functional.linear(states.to_mkldnn(), weight.t(), bias).to_dense()
            return func(*args, **(kwargs or {}))

    return LinearByOneDNN()
