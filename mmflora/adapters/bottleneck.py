"""Bottlenecks: small networks beside or behind a block."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ChannelAdapter
from .functional import bottleneck
from .lower_ranks import LowerRanks
from .sampled import SampledRanks, nested_ranks
from .settings import check_choice, check_count, check_factor
from .stored import Settings, Tensors

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
        own = (down, self.down_bias[: len(down)], up, self.up_bias)
        down, d, up, u = (parameter.to(x.dtype) for parameter in own)
        act = ACTIVATIONS[self.activation]
        update = bottleneck(moved, (down, d), (up, u), act) * self.scale
        return update if dim == -1 else update.movedim(-1, dim)

    def behind(self, output: Tensor) -> Tensor:
        """Return h + u(h) for the block's output h."""
        return output + self.bottleneck(output)

    def core_parameters(self) -> Any:
        yield self.up

    def meaning(self) -> dict[str, Any]:
        return dict(
            channels=self.channels,
            width=self.width,
            activation=self.activation,
            scale=self.scale,
        )


class NestedBottleneck(SampledRanks, LowerRanks, Bottleneck):
    """A bottleneck of which each prefix of the width is one.

    That is act(x D[:w]ᵀ + d[:w]) U[:, :w]ᵀ + u, with all of u, as NOAH's
    supernet has it (Zhang et al., "Neural Prompt Search", 2022, with the
    authors' release).

    Args:
        block: The block.
        widths: Widths of which each iteration of the training draws one, for
            each block; 0 is the frozen block.  By default the bottleneck
            trains as a whole.
        **options: As for :class:`Bottleneck`.

    Raises:
        ValueError: If a width is no integer from 0 on, or ``widths`` lack
            the bottleneck's own.
    """

    rank_setting, drawn_setting = 'width', 'widths'
    per_layer = True

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'relu',
        scale: float = 1.0,
        places: str | None = None,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(block, width, activation, scale, places)
        if widths is not None:
            kind, names = type(self).__name__, ('width', 'widths')
            self.sampled_ranks = nested_ranks(kind, width, widths, names, 0)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return what counts of D and U."""
        width, _ = self.counted(self.width)
        return self.down[:width], self.up[:, :width]

    def bottleneck(self, x: Tensor) -> Tensor:
        """Return the scaled bottleneck of ``x``; 0 for a width of 0."""
        _, share = self.counted(self.width)
        update = super().bottleneck(x)
        return update if share else update * share

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        """Return the shape of a layer of the block's width."""
        channels = len(tensors['up_bias'])
        return channels, channels

    @classmethod
    def blank(cls, shape: Sequence[int], settings: Settings) -> Any:
        block = nn.Linear(shape[1], shape[0], device='meta')
        return cls(block, **settings)
