"""ConvNeXt-V2's global response normalization, in half the memory."""

from typing import Any

import torch
from timm.layers import grn as timm_grn
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..precision import full_precision, on_cpu
from .recompute import keep, kept, leave_recipe


class GlobalResponseNorm(timm_grn.GlobalResponseNorm):
    """timm's layer, with the same keys and values, in half the memory.

    ConvNeXt-V2's global response normalization scales each channel by its
    norm over the image, relative to the other channels' (Woo et al., 2023,
    section 3).  Written as ``y = x · (1 + γ n(x)) + β`` it needs no other
    tensor of the input's size than the input.
    """

    lean = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, H, W, C)``, or ``(N, C, H, W)`` if so built."""
        weight = self.weight.view(self.wb_shape)
        bias = self.bias.view(self.wb_shape)
        if torch.compiler.is_compiling():
            return super().forward(x)
        output, scale = _GlobalResponseNorm.apply(
            x, weight, bias, self.eps, self.spatial_dim, self.channel_dim
        )
        if self.lean:
            leave_recipe(output, _scale_and_shift, [x, scale, bias])
        return output


def _scale_and_shift(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return x · scale + bias, computed in the wider type, in that of x."""
    with full_precision(x.device.type):
        return torch.addcmul(bias, x, scale, out=torch.empty_like(x))


class _GlobalResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        spatial: tuple[int, ...],
        channel: int,
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x.device.type):
            norm = _sum_products(x, x, spatial).sqrt_()
            mean = norm.mean(channel, keepdim=True) + eps
            scale = torch.addcmul(torch.ones_like(weight), weight, norm / mean)
            output = _scale_and_shift(x, scale, bias)
        ctx.mark_non_differentiable(scale)
        ctx.spatial, ctx.channel = spatial, channel
        keep(ctx, x, weight, norm, mean, scale)
        return output, scale

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, _scale: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, norm, mean, scale = kept(ctx, 4)
        to_x = to_weight = to_bias = None
        with full_precision(x.device.type):
            products = _sum_products(gradient, x, ctx.spatial)
            relative = norm / mean
            if ctx.needs_input_grad[0]:
                error = products * weight
                shared = (error * relative).mean(ctx.channel, keepdim=True)
                pull = (error - shared) / (mean * norm)
                # Like torch.norm: no gradient where the norm is zero.
                pull = pull.masked_fill_(norm == 0, 0)
                to_x = torch.mul(gradient, scale, out=torch.empty_like(x))
                torch.addcmul(to_x, x, pull, out=to_x)
            if ctx.needs_input_grad[1]:
                to_weight = (products * relative).sum(0, keepdim=True)
            if ctx.needs_input_grad[2]:
                to_bias = gradient.sum((0, *ctx.spatial), keepdim=True)
        return to_x, to_weight, to_bias, None, None, None


# Elements of one slice on a CPU: the product stays in the cache.
_SLICE = 1 << 18


def _sum_products(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return Σ a · b over some dimensions, kept as ones, in float32 at least.

    On a CPU it goes row by row: no second tensor of the input's size is
    written and read.
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    first = dims[0]
    rows = a.shape[first]
    step = max(1, rows * _SLICE // max(1, a.numel()))
    if not on_cpu(a) or step >= rows:
        return (a.to(dtype) * b.to(dtype)).sum(dims, keepdim=True)
    total: Tensor | None = None
    for start in range(0, rows, step):
        length = min(step, rows - start)
        part = a.narrow(first, start, length).to(dtype)
        part = part * b.narrow(first, start, length).to(dtype)
        summed = part.sum(dims, keepdim=True)
        total = summed if total is None else total.add_(summed)
    return torch.zeros(()) if total is None else total


def use_memory_efficient_grn(model: nn.Module) -> None:
    """Give timm's global response norms this module's class, in place."""
    for module in model.modules():
        if type(module) is timm_grn.GlobalResponseNorm:
            module.__class__ = GlobalResponseNorm
