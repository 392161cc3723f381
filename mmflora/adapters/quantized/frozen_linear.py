"""A linear layer over a quantized frozen weight."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..precision import cast, compute_dtype, full_precision


class FrozenLinear(torch.autograd.Function):
    """x Wᵀ + b, where W is brought back for each pass and kept for none."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Any, bias: Tensor | None
    ) -> Tensor:
        """Return ``(..., out)`` for inputs ``(..., in)``."""
        ctx.dtype = dtype = compute_dtype(inputs, weight)
        with full_precision(inputs.device.type):
            dense = weight.dequantize().to(dtype)
            output = F.linear(inputs.to(dtype), dense, cast(bias, dtype))
        ctx.save_for_backward(weight)
        ctx.dtypes = inputs.dtype, None if bias is None else bias.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None]:
        """Return the gradients of inputs and bias."""
        (weight,) = ctx.saved_tensors
        to_inputs = to_bias = None
        with full_precision(gradient.device.type):
            if ctx.needs_input_grad[0]:
                dense = weight.dequantize().to(ctx.dtype)
                to_inputs = gradient.to(ctx.dtype) @ dense
                to_inputs = to_inputs.to(ctx.dtypes[0])
            if ctx.needs_input_grad[2]:
                to_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0)
                to_bias = to_bias.to(ctx.dtypes[1])
        return to_inputs, None, to_bias


def frozen_linear(
    input: Tensor, weight: Any, bias: Tensor | None = None
) -> Tensor:
    """Stand in for ``F.linear``, of the same arguments.

    Raises:
        ValueError: If the weight is asked to train.
    """
    if weight.requires_grad:
        raise ValueError(
            f'A weight in {weight.scheme} cannot train: it has no gradient. '
            'Train adapters over it, or leave `quantize` out.'
        )
    return FrozenLinear.apply(input, weight, bias)
