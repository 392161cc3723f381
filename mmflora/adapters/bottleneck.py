"""Bottlenecks: small networks beside or behind a block."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ChannelAdapter
from .functional import bottleneck
from .settings import check_choice, check_count, check_factor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': F.relu,
    'gelu': F.gelu,
    'silu': F.silu,
}


class Bottleneck(ChannelAdapter):
    """A bottleneck on a block's output: u(x) = act(x Dᵀ + d) Uᵀ + u.

    U and both biases start at zero, so that the block starts unchanged; D
    starts as Kaiming's uniform.  The subclass decides what goes in and where
    the result goes.  It cannot be merged, because it has an activation.

    Args:
        block: The block.
        width: Width of the bottleneck.
        activation: ``'relu'``, ``'gelu'`` or ``'silu'``.
        scale: Factor on the bottleneck's output.
        places: Other blocks than the method's own.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'relu',
        scale: float = 1.0,
        places: str | None = None,
    ) -> None:
        super().__init__(block, places)
        kind = type(self).__name__
        self.width = check_count(kind, 'width', width)
        self.activation = check_choice(
            kind, 'activation', activation, tuple(ACTIVATIONS)
        )
        self.scale = check_factor(kind, 'scale', scale)
        self.make_parameters()
        self.reset_parameters()

    def make_parameters(self) -> None:
        """Make D, d, U and u."""
        self.down = self.new_parameter(self.width, self.channels)
        self.down_bias = self.new_parameter(self.width)
        self.up = self.new_parameter(self.channels, self.width)
        self.up_bias = self.new_parameter(self.channels)

    def reset_parameters(self) -> None:
        """Start as zero: U and the biases are, D is random."""
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        for parameter in (self.down_bias, self.up, self.up_bias):
            nn.init.zeros_(parameter)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return D and U, shapes ``(width, C)`` and ``(C, width)``."""
        return self.down, self.up

    def bottleneck(self, x: Tensor) -> Tensor:
        """Return the scaled bottleneck of ``x``, in its shape.

        Args:
            x: The block's channels come last, ``(N, tokens, C)``, or after
                the batch, ``(N, C, H, W)``.

        Raises:
            ValueError: If neither dimension has the block's width.
        """
        dim = self.channel_dim(x)
        moved = x if dim == -1 else x.movedim(dim, -1)
        down, up = self.matrices()
        own = (down, self.down_bias, up, self.up_bias)
        down, d, up, u = (parameter.to(x.dtype) for parameter in own)
        act = ACTIVATIONS[self.activation]
        update = bottleneck(moved, (down, d), (up, u), act) * self.scale
        return update if dim == -1 else update.movedim(-1, dim)

    def core_parameters(self) -> Any:
        yield self.up

    def meaning(self) -> dict[str, Any]:
        return dict(
            channels=self.channels,
            width=self.width,
            activation=self.activation,
            scale=self.scale,
        )
