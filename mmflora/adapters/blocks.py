"""Block adapters: what a method adds around a block of the model.

Forward hooks run them (:mod:`.block_hooks`), which leaves the block's class,
its forward pass and its keys alone; their own parameters stand under
``<block>.adapter``.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import AdapterBase, CannotAdapt
from .targets import compile_patterns, first_match

Grid = tuple[int, int]


class BlockAdapter(AdapterBase):
    """What a method adds to a block: it sees what goes in and comes out.

    A method overrides :meth:`enter`, :meth:`forward` or both; by default the
    block computes as it is.  It cannot be merged, as it is no change of a
    weight.

    Attributes:
        places: Pattern of the names of the blocks that the method adapts;
            ``targets`` chooses among them.  Of blocks within others the
            outermost counts.
        at_sum: Whether the adapter stands behind the sum of the block and its
            shortcut.  It is then asked for :meth:`added` alone.
        spatial: Whether it looks at neighbours, and needs to know height and
            width of the map that tokens are.
    """

    mergeable = False
    places: ClassVar[str] = ''
    at_sum: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'BlockAdapter':
        return cls(layer, **options)

    def enter(
        self, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return what the block gets instead of its arguments.

        Args:
            arguments: Those without a name.
            named: Those with one.
        """
        return arguments, named

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the adapted output of the block.

        A ``spatial`` adapter gets the map's height and width as a third
        argument, ``None`` where it is not known.

        Args:
            inputs: The block's first argument, as :meth:`enter` returns it.
            output: What the block made of it.
        """
        return output

    def added(self, x: Tensor, grid: Grid | None) -> Tensor:
        """Return u(h), which an adapter ``at_sum`` adds to the sum h."""
        raise NotImplementedError


class ChannelAdapter(BlockAdapter):
    """A block adapter that works on the block's channels.

    Args:
        block: The block.  Its width is that of its last matrix or kernel, and
            that one's kind says where to look for the channels.
        places: Other blocks than the method's own.
    """

    why_not_mergeable = 'an activation stands between its matrices'

    def __init__(self, block: nn.Module, places: str | None = None) -> None:
        super().__init__()
        last = last_weight(block)
        weight = last.get_parameter('weight')
        self.channels = output_channels(last)
        self.spatial_dims = weight.dim() - 2
        self._like = torch.empty(0, dtype=weight.dtype, device=weight.device)

    def new_parameter(self, *shape: int) -> nn.Parameter:
        """Return an uninitialized parameter, see :meth:`parameter_like`."""
        return self.parameter_like(self._like, *shape)

    def channel_dim(self, x: Tensor) -> int:
        """Return the dimension of the channels, from the end.

        They come last, ``(N, tokens, C)``, or after the batch,
        ``(N, C, H, W)``.

        Raises:
            ValueError: If neither dimension has the block's width.
        """
        dims = [-1]
        if self.spatial_dims and x.dim() > self.spatial_dims:
            first = -1 - self.spatial_dims
            like_conv = x.dim() == self.spatial_dims + 2
            dims = [first, -1] if like_conv else [-1, first]
        elif x.dim() == 4:
            dims = [-1, -3]
        for dim in dims:
            if x.shape[dim] == self.channels:
                return dim
        raise ValueError(
            f'{type(self).__name__}: the block works on {self.channels} '
            f'channels, but a tensor of shape {tuple(x.shape)} has them '
            'neither last nor after the batch. Name blocks that keep their '
            'width with `places`.'
        )


def output_channels(layer: nn.Module) -> int:
    """Return how many channels come out of a linear layer or convolution."""
    for name in ('out_features', 'out_channels'):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    return int(layer.get_parameter('weight').shape[0])


def last_weight(block: nn.Module) -> nn.Module:
    """Return the block's last layer with a matrix or kernel."""
    found = None
    for module in block.modules():
        weight = module._parameters.get('weight')
        if weight is not None and weight.dim() >= 2:
            found = module
    if found is None:
        raise CannotAdapt('no matrix or kernel in it tells its width')
    return found


def blocks_of(model: nn.Module, places: str) -> dict[str, nn.Module]:
    """Return the blocks whose names match; of nested ones the outermost.

    Raises:
        TypeError: If ``places`` is no text.
        ValueError: If it is no regular expression.
    """
    if not isinstance(places, str):
        raise TypeError(
            '`places` is one regular expression for the names of the blocks, '
            f"such as r'blocks[.][0-9]+[.]mlp', got {places!r}."
        )
    pattern = compile_patterns(places, 'places')
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inner = any(name.startswith(f'{outer}.') for outer in found)
        if name and not inner and first_match(pattern, name):
            found[name] = module
    return found
