"""Multiply-accumulate operations (MACs) of a network, counted call by call as it runs.

Reads and writes nothing; imported by `utils.tools.complexity`. Counted are the products with weights and between signals:
convolutions, linear layers, recurrent layers (for an LSTM of d inputs and h cells 4h(d + h) for each step and direction,
and the projection if any) and matrix products. Biases, norms, activations and element-wise masks are not. What a network
calls is counted, whether by a module or a function, so that nothing is missed that a module's forward does by itself.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class MacCounter(TorchFunctionMode):
    """Counts what runs inside its `with` block.

    Attributes:
        macs: MACs so far.

    Examples
        >>> with MacCounter() as counter:
        ...     _ = nn.Linear(3, 5)(torch.rand(7, 3))
        >>> counter.macs
        105
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _HIDING:
            raise NotImplementedError(f"{func.__name__} hides its products from this counter; write it out")
        result = func(*args, **kwargs)
        if func in _RULES:
            self.macs += _RULES[func](result, *args, **kwargs)
        return result


def count_macs(network: nn.Module, *inputs: torch.Tensor | None) -> int:
    """Run `network(*inputs)` once and count its MACs."""
    with torch.no_grad(), MacCounter() as counter:
        network(*inputs)
    return counter.macs


def _convolution(result: torch.Tensor, signal: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * weight[0].numel()  # weight: (out, in / groups, *kernel)


def _transposed_convolution(result: torch.Tensor, signal: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> int:
    return signal.numel() * weight[0].numel()  # weight: (in, out / groups, *kernel)


def _linear(result: torch.Tensor, signal: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * weight.shape[-1]


def _recurrent(result: Any, signal: torch.Tensor, *arguments: Any) -> int:
    """Every weight is used once for each step: `arguments` holds the list of all layers' and directions' weights."""
    weights = next(argument for argument in arguments if isinstance(argument, (list, tuple)) and len(argument) > 2)
    steps = signal.shape[:-1].numel() if len(signal.shape) > 1 else 1
    return steps * sum(weight.numel() for weight in weights if weight.ndim == 2)


def _product(result: torch.Tensor, left: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * left.shape[-1]


def _added_product(result: torch.Tensor, added: torch.Tensor, left: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * left.shape[-1]


def _attention(result: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return pairs * (query.shape[-1] + value.shape[-1])


_RULES: dict[Callable, Callable[..., int]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
    functional.linear: _linear,
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, torch.mv, torch.dot), _product),
    **dict.fromkeys((torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm), _product),
    **dict.fromkeys((torch.addmm, torch.baddbmm), _added_product),
    functional.scaled_dot_product_attention: _attention,
}

_HIDING = {
    torch.einsum,
    torch.tensordot,
    torch.bilinear,
    functional.multi_head_attention_forward,
    torch.lstm_cell,
    torch.gru_cell,
}
