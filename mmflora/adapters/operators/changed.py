"""An operator with a frozen weight that changes at few places."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..entries import Entries, add_entries, entries_of
from ..memory.recompute import keep, kept
from ..precision import cast, compute_dtype, full_precision
from .update import Gradients, Operator, own_output


class _Changed(torch.autograd.Function):
    """The operator by W + ΔW with frozen W and a sparse ΔW.

    W + ΔW is computed again in the backward pass, so that no second weight is
    kept.  Of a gradient of the weight's size only the wanted entries remain,
    once the layer's backward pass is over.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        places: Tensor,
        values: Tensor,
        dim: int | None,
        operator: Operator,
    ) -> Tensor:
        ctx.dtype = dtype = compute_dtype(inputs, weight)
        ctx.operator, ctx.dim = operator, dim
        with full_precision(inputs.device.type):
            whole = add_entries(weight, Entries(places, values, dim), dtype)
            output = operator.apply(inputs.to(dtype), whole, cast(bias, dtype))
        keep(ctx, inputs, weight, places, values)
        return own_output(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        inputs, weight, places, values = kept(ctx, 3)
        dtype, operator = ctx.dtype, ctx.operator
        entries = Entries(places, values, ctx.dim)
        to_inputs = to_bias = None
        with full_precision(gradient.device.type):
            x = operator.rows(inputs.to(dtype))
            g = operator.rows(gradient.to(dtype))
            whole = add_entries(weight, entries, dtype)
            if ctx.needs_input_grad[0]:
                to_inputs = operator.input_gradient(g, x, whole)
                to_inputs = to_inputs.view(inputs.shape).to(inputs.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = operator.bias_gradient(gradient)
            found = entry_gradient(operator, g, x, whole, places, ctx.dim)
        to_values = found.to(values.dtype)
        return to_inputs, None, to_bias, None, to_values, None, None


def entry_gradient(
    operator: Operator,
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    places: Tensor,
    dim: int | None,
) -> Tensor:
    """Return the weight's gradient at some places.

    That of whole rows or columns is a dense product of their channels alone;
    that of single entries is read from the gradient of the weight.

    Args:
        operator: The operator.
        gradient: The output's gradient, as ``operator.rows`` returns it.
        inputs: The input, likewise.
        weight: Of the weight's shape and the gradient's type.
        places: See :class:`Entries`.
        dim: See :class:`Entries`.
    """
    if dim in (0, 1) and getattr(operator, 'groups', 1) == 1:
        part = weight.index_select(dim, places)
        if dim == 0:
            gradient = gradient.index_select(1, places)
        else:
            inputs = inputs.index_select(1, places)
        return operator.weight_gradient(gradient, inputs, part)
    whole = operator.weight_gradient(gradient, inputs, weight)
    return entries_of(whole, places, dim)


def changed(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    entries: Entries,
    operator: Operator,
) -> Tensor:
    """Apply an operator with the weight W + ΔW, W frozen.

    Args:
        inputs: Its input, ``(N, in, *size)`` or ``(..., in)``.
        weight: W, shape ``(out, in / groups, *kernel)``.
        bias: Shape ``(out,)`` or ``None``.
        entries: ΔW.
        operator: What to apply.
    """
    return _Changed.apply(inputs, weight, bias, *entries, operator)
