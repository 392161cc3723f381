"""The output channels of a weight."""

import math
from collections.abc import Sequence

from torch import nn


def channel_view(
    shape: Sequence[int], transposed_groups: int = 0
) -> tuple[int, int, int, int]:
    """Return a weight's shape with its output channels in two dimensions.

    Args:
        shape: The weight's shape: ``(out, ...)``, or for a transposed
            convolution ``(in, out / groups, *kernel)``.
        transposed_groups: The groups of a transposed convolution, 0 for any
            other layer.

    Returns:
        Four sizes; those at 0 and 2 are the output channels, in their order.
    """
    if not transposed_groups:
        return shape[0], math.prod(shape[1:]), 1, 1
    return (
        transposed_groups,
        shape[0] // transposed_groups,
        shape[1],
        math.prod(shape[2:]),
    )


def transposed_groups(layer: nn.Module) -> int:
    """Return the groups of a transposed convolution, 0 for other layers."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return layer.groups
    return 0
