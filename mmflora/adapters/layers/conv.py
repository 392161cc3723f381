"""Adapted convolutions."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..memory.recompute import leave_recipe
from ..operators import Geometry, trained
from ..precision import cast, compute_dtype, full_precision
from .adapted import OperatorLayer


class AdaptedConv(OperatorLayer, nn.modules.conv._ConvNd):
    """What the convolutions of one, two and three dimensions share.

    Attributes:
        lean: Whether the output of a depthwise convolution, which is cheap,
            may be rebuilt by what follows instead of being kept.
    """

    lean: bool = False

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        return self._conv_forward(inputs, weight, bias)

    def compute_adapted(self, inputs: Tensor) -> Tensor:
        batched = inputs.dim() == self.weight.dim()
        inputs, geometry = self._pad(inputs if batched else inputs[None])
        output = self._convolve(inputs, geometry)
        return output if batched else output[0]

    def _convolve(self, inputs: Tensor, geometry: Geometry) -> Tensor:
        if self.groups == 1:
            positions = math.prod(inputs.shape[2:]) // math.prod(self.stride)
            positions *= len(inputs)
            fast = self.compute_low_rank(inputs, positions, geometry)
            if fast is not None:
                return fast
        if not (self.lean and 1 < self.groups == self.in_channels):
            return self.compute_dense(inputs, geometry)
        weight, bias = self.adapted_weight(), self.adapted_bias()
        output = trained(inputs, weight, bias, geometry)
        dtype = compute_dtype(inputs, weight)
        leaves = [inputs, weight.detach()]
        if bias is not None:
            leaves.append(bias.detach())
        leave_recipe(output, partial(_convolve, geometry, dtype), leaves)
        return output

    def _pad(self, inputs: Tensor) -> tuple[Tensor, Geometry]:
        """Return the input, padded where a convolution cannot do it."""
        padding: Any = self.padding
        sides = self._reversed_padding_repeated_twice
        symmetric = sides[::2] == sides[1::2]
        if self.padding_mode != 'zeros':
            inputs = F.pad(inputs, sides, mode=self.padding_mode)
            padding = (0,) * len(self.stride)
        elif isinstance(padding, str) and symmetric:
            padding = tuple(reversed(sides[::2]))
        elif isinstance(padding, str):
            inputs = F.pad(inputs, sides)
            padding = (0,) * len(self.stride)
        return inputs, Geometry(
            self.stride, tuple(padding), self.dilation, self.groups
        )


def _convolve(
    geometry: Geometry,
    dtype: torch.dtype,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve once more, in the precision of the first time."""
    with full_precision(inputs.device.type):
        return geometry.apply(
            inputs.to(dtype), weight.to(dtype), cast(bias, dtype)
        )


class AdaptedConv1d(AdaptedConv, nn.Conv1d):
    """``nn.Conv1d`` with an adapter, grouped and depthwise included."""


class AdaptedConv2d(AdaptedConv, nn.Conv2d):
    """``nn.Conv2d`` with an adapter, grouped and depthwise included."""


class AdaptedConv3d(AdaptedConv, nn.Conv3d):
    """``nn.Conv3d`` with an adapter, grouped and depthwise included."""
