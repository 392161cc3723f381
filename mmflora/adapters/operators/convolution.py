"""Convolutions with a trainable weight, or a frozen one and its update."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..memory.recompute import keep, kept
from ..precision import cast, compute_dtype, full_precision
from .geometry import Geometry, pointwise
from .linear_map import Gradients, fold_linear


class _LowRankConv(torch.autograd.Function):
    """Convolution by W + L R with frozen W, one group."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        geometry: Geometry,
        folded: bool,
    ) -> Tensor:
        dtype = compute_dtype(inputs, weight)
        ctx.dtype, ctx.folded, ctx.geometry = dtype, folded, geometry
        with full_precision(inputs.device.type):
            x = inputs.to(dtype)
            if folded:
                whole = _fold_conv(weight, left, right, dtype)
                output = geometry.convolve(x, whole, cast(bias, dtype))
            else:
                output = geometry.convolve(
                    x, weight.to(dtype), cast(bias, dtype)
                )
                thin = geometry.convolve(x, right.to(dtype))
                # Not in place: compiled, the gradients would be lost.
                output = output + pointwise(thin, left.to(dtype))
        keep(ctx, inputs, weight, left, right)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        inputs, weight, left, right = kept(ctx, 3)
        dtype, geometry = ctx.dtype, ctx.geometry
        with full_precision(gradient.device.type):
            x, g = inputs.to(dtype), gradient.to(dtype)
            u, v = left.to(dtype), right.to(dtype)
            g_thin = pointwise(g, u.T.contiguous())
            to_inputs = to_bias = None
            if ctx.needs_input_grad[0]:
                if ctx.folded:
                    whole = _fold_conv(weight, left, right, dtype)
                    to_inputs = geometry.input_gradient(g, x, whole)
                else:
                    to_inputs = geometry.input_gradient(g, x, weight.to(dtype))
                    to_inputs = to_inputs + geometry.input_gradient(
                        g_thin, x, v
                    )
                to_inputs = to_inputs.to(inputs.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = gradient.sum((0, *range(2, gradient.dim())))
            thin = geometry.convolve(x, v)
            to_left = torch.einsum('no...,nr...->or', g, thin).to(left.dtype)
            to_right = geometry.weight_gradient(g_thin, x, v).to(right.dtype)
        return to_inputs, None, to_bias, to_left, to_right, None, None


def _fold_conv(
    weight: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    return fold_linear(
        weight.flatten(1), left, right.flatten(1), dtype
    ).view_as(weight)


class _Conv(torch.autograd.Function):
    """A convolution whose weight trains, its input kept by its recipe."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        ctx.dtype, ctx.geometry = compute_dtype(inputs, weight), geometry
        with full_precision(inputs.device.type):
            output = geometry.convolve(
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
            x, g = inputs.to(ctx.dtype), gradient.to(ctx.dtype)
            w = weight.to(ctx.dtype)
            if ctx.needs_input_grad[0]:
                to_inputs = ctx.geometry.input_gradient(g, x, w)
                to_inputs = to_inputs.to(inputs.dtype)
            to_weight = ctx.geometry.weight_gradient(g, x, w)
            if ctx.needs_input_grad[2]:
                to_bias = gradient.sum((0, *range(2, gradient.dim())))
        return to_inputs, to_weight.to(weight.dtype), to_bias, None


def conv(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Convolve with a weight that is computed from an adapter.

    Args:
        inputs: Shape ``(N, in, *size)``.
        weight: The adapted weight, shape ``(out, in / groups, *kernel)``.
        bias: Shape ``(out,)`` or ``None``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        Shape ``(N, out, *size)``.
    """
    return _Conv.apply(inputs, weight, bias, geometry)


def low_rank_conv(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    geometry: Geometry,
    folded: bool = True,
) -> Tensor:
    """Convolve with the weight W + L R, W frozen, in one group.

    Args:
        inputs: Shape ``(N, in, *size)``.
        weight: W, shape ``(out, in, *kernel)``.
        bias: Shape ``(out,)`` or ``None``.
        left: L, shape ``(out, rank)``.
        right: R, a kernel of shape ``(rank, in, *kernel)``.
        geometry: Stride, padding and dilation; one group.
        folded: As in :func:`low_rank_linear`.

    Returns:
        Shape ``(N, out, *size)``.
    """
    return _LowRankConv.apply(
        inputs, weight, bias, left, right, geometry, folded
    )
