"""The geometry of a convolution: its forward pass and its two gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import on_cpu


class Geometry(NamedTuple):
    """How a convolution walks over its input, one number per dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def apply(
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

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor as the gradients take it: as it is."""
        return tensor

    def expand(
        self, thin: Tensor, left: Tensor, onto: Tensor | None = None
    ) -> Tensor:
        """Multiply the channels by ``(out, rank)``, and add the product."""
        ones = (1,) * len(self.stride)
        kernel = left.reshape(*left.shape, *ones)
        product = Geometry(ones, (0,) * len(ones), ones).apply(thin, kernel)
        # Not in place: compiled, the gradients would be lost.
        return product if onto is None else onto + product

    def input_gradient(
        self,
        gradient: Tensor,
        inputs: Tensor,
        weight: Tensor,
        onto: Tensor | None = None,
    ) -> Tensor:
        """Return the input's gradient; of ``inputs`` the shape is read."""
        found = self._backward(gradient, inputs, weight, 0)
        return found if onto is None else onto + found

    def weight_gradient(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the weight's gradient; of ``weight`` the shape is read."""
        depthwise = self.groups == inputs.shape[1] > 1
        if depthwise and on_cpu(inputs) and len(inputs):
            return _depthwise_weight_gradient(self, gradient, inputs, weight)
        return self._backward(gradient, inputs, weight, 1)

    def left_gradient(self, gradient: Tensor, thin: Tensor) -> Tensor:
        """Return the gradient of what :meth:`expand` multiplied by."""
        return torch.einsum('no...,nr...->or', gradient, thin)

    def bias_gradient(self, gradient: Tensor) -> Tensor:
        """Return the bias's gradient."""
        return gradient.sum((0, *range(2, gradient.dim())))

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
        product = swapped.apply(image.unsqueeze(0), error.unsqueeze(1))
        # Where the stride leaves a rest, positions follow that no tap has.
        for dim, size in enumerate(weight.shape[2:], start=2):
            product = product.narrow(dim, 0, size)
        total += product.transpose(0, 1)
    return total
