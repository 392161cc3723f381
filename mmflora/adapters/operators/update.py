"""An operator with a trainable weight, or a frozen one and its update."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..functional import fold
from ..memory.recompute import keep, kept
from ..precision import cast, compute_dtype, full_precision
from .geometry import Geometry
from .linear_map import LinearMap

Operator = Geometry | LinearMap
Gradients = tuple[Tensor | None, ...]


class _Updated(torch.autograd.Function):
    """The operator by W + L R with frozen W, in one group."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        operator: Operator,
        folded: bool,
    ) -> Tensor:
        ctx.dtype = dtype = compute_dtype(inputs, weight)
        ctx.operator, ctx.folded, thin = operator, folded, None
        with full_precision(inputs.device.type):
            x, b = inputs.to(dtype), cast(bias, dtype)
            if folded:
                whole = fold(weight, left, right, dtype)
                output = operator.apply(x, whole, b)
            else:
                output = operator.apply(x, weight.to(dtype), b)
                thin = operator.apply(x, right.to(dtype))
                output = operator.expand(thin, left.to(dtype), output)
        keep(ctx, inputs, weight, left, right, thin)
        return own_output(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        inputs, weight, left, right, thin = kept(ctx, 4)
        dtype, operator = ctx.dtype, ctx.operator
        with full_precision(gradient.device.type):
            x = operator.rows(inputs.to(dtype))
            g = operator.rows(gradient.to(dtype))
            u, v = left.to(dtype), right.to(dtype)
            g_thin = operator.expand(g, u.T)
            to_inputs = to_bias = None
            if ctx.needs_input_grad[0]:
                if ctx.folded:
                    whole = fold(weight, left, right, dtype)
                    to_inputs = operator.input_gradient(g, x, whole)
                else:
                    frozen = operator.input_gradient(g, x, weight.to(dtype))
                    to_inputs = operator.input_gradient(g_thin, x, v, frozen)
                to_inputs = to_inputs.view(inputs.shape).to(inputs.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = operator.bias_gradient(gradient)
            if thin is None:
                thin = operator.apply(x, v)
            to_left = operator.left_gradient(g, thin).to(left.dtype)
            to_right = operator.weight_gradient(g_thin, x, v).to(right.dtype)
        return to_inputs, None, to_bias, to_left, to_right, None, None


class _Trained(torch.autograd.Function):
    """The operator by a weight that trains, its input kept by its recipe."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operator: Operator,
    ) -> Tensor:
        ctx.dtype = dtype = compute_dtype(inputs, weight)
        ctx.operator = operator
        with full_precision(inputs.device.type):
            output = operator.apply(
                inputs.to(dtype), weight.to(dtype), cast(bias, dtype)
            )
        keep(ctx, inputs, weight)
        return own_output(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        inputs, weight = kept(ctx, 1)
        dtype, operator = ctx.dtype, ctx.operator
        to_inputs = to_bias = None
        with full_precision(gradient.device.type):
            x = operator.rows(inputs.to(dtype))
            g, w = operator.rows(gradient.to(dtype)), weight.to(dtype)
            if ctx.needs_input_grad[0]:
                to_inputs = operator.input_gradient(g, x, w)
                to_inputs = to_inputs.view(inputs.shape).to(inputs.dtype)
            to_weight = operator.weight_gradient(g, x, w).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = operator.bias_gradient(gradient)
        return to_inputs, to_weight, to_bias, None


def own_output(output: Tensor) -> Tensor:
    """Return an output that is no view, for what changes it in place.

    PyTorch's linear map of several dimensions returns a view of the product,
    and autograd refuses in-place operators, such as the ReLU of mmcv's
    feed-forward networks, on a view that a function returns.
    """
    if torch.compiler.is_compiling() or not output._is_view():
        return output
    own: Tensor = torch.ops.aten._unsafe_view(output, output.shape)
    return own


def trained(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, operator: Operator
) -> Tensor:
    """Apply an operator with a weight that is computed from an adapter.

    Args:
        inputs: Its input, ``(N, in, *size)`` or ``(..., in)``.
        weight: The adapted weight.
        bias: Shape ``(out,)`` or ``None``.
        operator: What to apply.
    """
    return _Trained.apply(inputs, weight, bias, operator)


def updated(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    operator: Operator,
    folded: bool = True,
) -> Tensor:
    """Apply an operator with the weight W + L R, W frozen, in one group.

    Args:
        inputs: Its input, ``(N, in, *size)`` or ``(..., in)``.
        weight: W, shape ``(out, in, *kernel)``.
        bias: Shape ``(out,)`` or ``None``.
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in, *kernel)``.
        operator: What to apply.
        folded: Add L R to W and apply once; else apply W and the two factors
            apart.
    """
    return _Updated.apply(inputs, weight, bias, left, right, operator, folded)
