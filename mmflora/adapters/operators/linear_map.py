"""Linear layers with a trainable weight, or a frozen one and its update."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..memory.recompute import keep, kept
from ..precision import cast, compute_dtype, full_precision

Gradients = tuple[Tensor | None, ...]


class _LowRankLinear(torch.autograd.Function):
    """x (W + L R)ᵀ + b with frozen W, by thin products in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        folded: bool,
    ) -> Tensor:
        dtype = compute_dtype(inputs, weight)
        ctx.dtype, ctx.folded = dtype, folded
        with full_precision(inputs.device.type):
            x = inputs.to(dtype)
            if folded:
                whole = fold_linear(weight, left, right, dtype)
                output = F.linear(x, whole, cast(bias, dtype))
                thin = None
            else:
                output = F.linear(x, weight.to(dtype), cast(bias, dtype))
                thin = _rows(x) @ right.to(dtype).T
                output.view(-1, len(left)).addmm_(thin, left.to(dtype).T)
        keep(ctx, inputs, weight, left, right, thin)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        inputs, weight, left, right, thin = kept(ctx, 4)
        dtype = ctx.dtype
        with full_precision(gradient.device.type):
            x, g = _rows(inputs.to(dtype)), _rows(gradient.to(dtype))
            u, v = left.to(dtype), right.to(dtype)
            g_thin = g @ u
            to_inputs = to_bias = None
            if ctx.needs_input_grad[0]:
                if ctx.folded:
                    to_inputs = g @ fold_linear(weight, left, right, dtype)
                else:
                    to_inputs = torch.addmm(g @ weight.to(dtype), g_thin, v)
                to_inputs = to_inputs.view(inputs.shape).to(inputs.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = _rows(gradient).sum(0)
            if thin is None:
                thin = x @ v.T
            to_left = (g.T @ thin).to(left.dtype)
            to_right = (g_thin.T @ x).to(right.dtype)
        return to_inputs, None, to_bias, to_left, to_right, None


def _rows(tensor: Tensor) -> Tensor:
    """Return ``(..., n)`` as ``(rows, n)``; a vector is one row."""
    return tensor.flatten(0, -2) if tensor.dim() > 1 else tensor[None]


def fold_linear(
    weight: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return W + L R, added in the wider type, in another."""
    wide = torch.promote_types(weight.dtype, left.dtype)
    return torch.addmm(weight.to(wide), left.to(wide), right.to(wide)).to(
        dtype
    )


class _Linear(torch.autograd.Function):
    """x Wᵀ + b, W trainable, its input kept by its recipe."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.dtype = compute_dtype(inputs, weight)
        with full_precision(inputs.device.type):
            output = F.linear(
                inputs.to(ctx.dtype),
                weight.to(ctx.dtype),
                cast(bias, ctx.dtype),
            )
        keep(ctx, inputs, weight)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        inputs, weight = kept(ctx, 1)
        to_inputs = to_bias = None
        with full_precision(gradient.device.type):
            g = _rows(gradient.to(ctx.dtype))
            if ctx.needs_input_grad[0]:
                to_inputs = (g @ weight.to(ctx.dtype)).view(inputs.shape)
                to_inputs = to_inputs.to(inputs.dtype)
            to_weight = g.T @ _rows(inputs.to(ctx.dtype))
            if ctx.needs_input_grad[2]:
                to_bias = _rows(gradient).sum(0)
        return to_inputs, to_weight.to(weight.dtype), to_bias


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer whose weight is computed from an adapter.

    Args:
        inputs: Shape ``(..., in)``.
        weight: The adapted weight, shape ``(out, in)``.
        bias: Shape ``(out,)`` or ``None``.

    Returns:
        Shape ``(..., out)``.
    """
    return _Linear.apply(inputs, weight, bias)


def low_rank_linear(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    folded: bool = True,
) -> Tensor:
    """Apply a linear layer with the weight W + L R, W frozen.

    Args:
        inputs: Shape ``(..., in)``.
        weight: W, shape ``(out, in)``.
        bias: Shape ``(out,)`` or ``None``.
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in)``.
        folded: Add L R to W and multiply once; else multiply by W and by the
            two factors apart.

    Returns:
        Shape ``(..., out)``.
    """
    return _LowRankLinear.apply(inputs, weight, bias, left, right, folded)
