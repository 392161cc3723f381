"""Adapted transposed convolutions."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .adapted import OperatorLayer


class AdaptedConvTranspose(OperatorLayer, nn.modules.conv._ConvTransposeNd):
    """What the transposed convolutions share.

    Their weight is ``(in, out / groups, *kernel)``: the modes of an update
    are the weight's, in this order.
    """

    operator: ClassVar[Callable[..., Tensor]]

    @property
    def channel_dim(self) -> int:  # type: ignore[override]
        """The dimension of the output's channels, from the end."""
        return 1 - self.weight.dim()

    def compute(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output_size: list[int] | None = None,
    ) -> Tensor:
        """Convolve with the layer's geometry and the output's size."""
        geometry: dict[str, Any] = dict(
            stride=self.stride,
            padding=self.padding,
            kernel_size=self.kernel_size,
            num_spatial_dims=len(self.stride),
            dilation=self.dilation,
        )
        output_padding = self._output_padding(inputs, output_size, **geometry)
        return type(self).operator(
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

    operator = staticmethod(F.conv_transpose1d)


class AdaptedConvTranspose2d(AdaptedConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with an adapter."""

    operator = staticmethod(F.conv_transpose2d)


class AdaptedConvTranspose3d(AdaptedConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with an adapter."""

    operator = staticmethod(F.conv_transpose3d)
