"""Adapted transposed convolutions."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .adapted import OperatorLayer


class AdaptedConvTranspose(OperatorLayer, nn.modules.conv._ConvTransposeNd):
    """What the transposed convolutions share.

    Their weight is ``(in, out / groups, *kernel)``: the modes of an update
    are the weight's, in this order.
    """

    def compute(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output_size: list[int] | None = None,
    ) -> Tensor:
        geometry: dict[str, Any] = dict(
            stride=self.stride,
            padding=self.padding,
            kernel_size=self.kernel_size,
            num_spatial_dims=len(self.stride),
            dilation=self.dilation,
        )
        output_padding = self._output_padding(inputs, output_size, **geometry)
        convolve = getattr(F, f'conv_transpose{len(self.stride)}d')
        return convolve(
            inputs,
            weight,
            bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )

    def forward(
        self, input: Tensor, output_size: list[int] | None = None
    ) -> Tensor:
        """Compute the layer with W + ΔW."""
        return super().forward(input, output_size)


class AdaptedConvTranspose1d(AdaptedConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with an adapter."""


class AdaptedConvTranspose2d(AdaptedConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with an adapter."""


class AdaptedConvTranspose3d(AdaptedConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with an adapter."""
