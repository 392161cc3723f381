"""Forward and backward passes of a frozen weight with a trainable update.

``functional.py`` has the formulas; what stands here computes the same with
less work and memory than automatic differentiation would:

- the update is folded into the weight, so that one matrix product or one
  convolution serves both, forward and for the input's gradient;
- the gradients of the two factors of a low-rank update come from products as
  thin as the rank, without the dense gradient of the weight;
- a layer's input is kept as the recipe that its producer left, if it did.

Autograd takes care of how the factors (or the folded weight) come from the
parameters.  The functions are differentiable once.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .precision import cast, compute_dtype, full_precision
from .recompute import keep, kept

Gradients = tuple[Tensor | None, ...]


class Geometry(NamedTuple):
    """How a convolution walks over its input, one number per dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def convolve(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Convolve ``(N, C, *size)`` with ``(out, C / groups, *kernel)``."""
        return torch.convolution(
            inputs,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
        )

    def input_gradient(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the input's gradient; of ``inputs`` the shape is read."""
        return self._backward(gradient, inputs, weight, 0)

    def weight_gradient(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the weight's gradient; of ``weight`` the shape is read."""
        depthwise = self.groups == inputs.shape[1] > 1
        if depthwise and inputs.device.type == 'cpu' and len(inputs):
            return _depthwise_weight_gradient(self, gradient, inputs, weight)
        return self._backward(gradient, inputs, weight, 1)

    def _backward(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor, which: int
    ) -> Tensor:
        wanted = [which == 0, which == 1, False]
        return torch.ops.aten.convolution_backward(
            gradient,
            inputs,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            wanted,
        )[which]


def _depthwise_weight_gradient(
    geometry: Geometry, gradient: Tensor, inputs: Tensor, weight: Tensor
) -> Tensor:
    """Correlate input and output gradient, channel by channel.

    The gradient of a depthwise kernel is itself a depthwise convolution: of
    an image with its output gradient as the kernel, stride and dilation
    changing places.  On CPUs the forward kernels of depthwise convolutions
    are several times faster than those of the weight's gradient.  Sums over
    whole images are taken, and returned, in float32 at least.
    """
    swapped = Geometry(
        geometry.dilation, geometry.padding, geometry.stride, geometry.groups
    )
    # Sums over a batch: in half precision each image's would be rounded away.
    wide = torch.promote_types(weight.dtype, torch.float32)
    total = torch.zeros_like(weight, dtype=wide)
    for image, error in zip(inputs, gradient, strict=True):
        product = swapped.convolve(image.unsqueeze(0), error.unsqueeze(1))
        # Where the stride leaves a rest, positions follow that no tap has.
        for dim, size in enumerate(weight.shape[2:], start=2):
            product = product.narrow(dim, 0, size)
        total += product.transpose(0, 1)
    return total


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
                whole = _fold_linear(weight, left, right, dtype)
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
                    to_inputs = g @ _fold_linear(weight, left, right, dtype)
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


def _fold_linear(
    weight: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    wide = torch.promote_types(weight.dtype, left.dtype)
    return torch.addmm(weight.to(wide), left.to(wide), right.to(wide)).to(
        dtype
    )


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
                output = output + _pointwise(thin, left.to(dtype))
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
            g_thin = _pointwise(g, u.T.contiguous())
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
    return _fold_linear(
        weight.flatten(1), left, right.flatten(1), dtype
    ).view_as(weight)


def _pointwise(inputs: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the channels (dimension 1) by a matrix ``(out, in)``."""
    kernel = matrix.view(*matrix.shape, *(1,) * (inputs.dim() - 2))
    ones = (1,) * (inputs.dim() - 2)
    return Geometry(ones, (0,) * len(ones), ones).convolve(inputs, kernel)


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
