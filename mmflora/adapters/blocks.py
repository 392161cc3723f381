"""Block adapters: small networks beside or behind a part of the model.

A forward hook runs them, which leaves the block's class, its forward pass and
its keys alone; their own parameters stand under ``<block>.adapter``.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import AdapterBase, CannotAdapt
from .functional import bottleneck
from .settings import check_choice, check_count, check_factor
from .targets import compile_patterns, first_match

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': F.relu,
    'gelu': F.gelu,
    'silu': F.silu,
}


class BlockAdapter(AdapterBase):
    """A bottleneck on a block's output: u(x) = act(x Dᵀ + d) Uᵀ + u.

    U and both biases start at zero, so that the block starts unchanged; D
    starts as Kaiming's uniform.  The subclass decides what goes in and where
    the result goes.  It cannot be merged, because it has an activation.

    Args:
        block: The block.  Its width is that of its last matrix or kernel, and
            that one's kind says where to look for the channels.
        width: Width of the bottleneck.
        activation: ``'relu'``, ``'gelu'`` or ``'silu'``.
        scale: Factor on the bottleneck's output.
        places: Pattern of the names of the blocks that the method adapts;
            ``targets`` chooses among them.  Of blocks within others the
            outermost counts.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a setting is out of range.
    """

    mergeable = False
    why_not_mergeable = 'an activation stands between its matrices'
    places: ClassVar[str] = ''

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'relu',
        scale: float = 1.0,
        places: str | None = None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.width = check_count(kind, 'width', width)
        self.activation = check_choice(
            kind, 'activation', activation, tuple(ACTIVATIONS)
        )
        self.scale = check_factor(kind, 'scale', scale)
        last = _last_weight(block)
        self.channels = _output_channels(last)
        self.spatial_dims = last._parameters['weight'].dim() - 2  # type: ignore[union-attr]
        weight = last._parameters['weight']
        assert weight is not None  # _last_weight() has seen it
        self.down = self.parameter_like(weight, width, self.channels)
        self.down_bias = self.parameter_like(weight, width)
        self.up = self.parameter_like(weight, self.channels, width)
        self.up_bias = self.parameter_like(weight, self.channels)
        self.reset_parameters()

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'BlockAdapter':
        return cls(layer, **options)

    def reset_parameters(self) -> None:
        """Start as zero: U and the biases are, D is random."""
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        for parameter in (self.down_bias, self.up, self.up_bias):
            nn.init.zeros_(parameter)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Return the scaled bottleneck of ``x``, in its shape.

        Args:
            x: The block's channels come last, ``(N, tokens, C)``, or after
                the batch, ``(N, C, H, W)``.

        Raises:
            ValueError: If neither dimension has the block's width.
        """
        dim = self._channel_dim(x)
        moved = x if dim == -1 else x.movedim(dim, -1)
        own = (self.down, self.down_bias, self.up, self.up_bias)
        down, d, up, u = (parameter.to(x.dtype) for parameter in own)
        act = ACTIVATIONS[self.activation]
        update = bottleneck(moved, (down, d), (up, u), act) * self.scale
        return update if dim == -1 else update.movedim(-1, dim)

    def _channel_dim(self, x: Tensor) -> int:
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

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the adapted output of the block.

        Args:
            inputs: The block's first argument.
            output: What the block made of it.
        """
        raise NotImplementedError

    def core_parameters(self) -> Any:
        yield self.up

    def meaning(self) -> dict[str, Any]:
        return dict(
            channels=self.channels,
            width=self.width,
            activation=self.activation,
            scale=self.scale,
        )


def _output_channels(layer: nn.Module) -> int:
    """Return how many channels come out of a linear layer or convolution."""
    for name in ('out_features', 'out_channels'):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    return int(layer.get_parameter('weight').shape[0])


def _last_weight(block: nn.Module) -> nn.Module:
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


def adapt_block(block: nn.Module, adapter: BlockAdapter) -> nn.Module:
    """Give a block its adapter, in place."""
    block.adapter = adapter
    block.register_forward_hook(_run, with_kwargs=True)
    return block


def restore_block(block: nn.Module) -> nn.Module:
    """Take a block's adapter away again."""
    drop_hook(block, _run)
    del block.adapter
    vars(block).pop('adapter_enabled', None)
    return block


def drop_hook(module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Take a forward hook off a module; return whether it had it."""
    keys = [key for key, own in module._forward_hooks.items() if own is hook]
    for key in keys:
        del module._forward_hooks[key]
        module._forward_hooks_with_kwargs.pop(key, None)
    return bool(keys)


def _run(
    block: nn.Module,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    output: Any,
) -> Any:
    """Adapt a block's output; of several, the first."""
    if not getattr(block, 'adapter_enabled', True):
        return None
    inputs = arguments[0] if arguments else next(iter(named.values()))
    adapter: Any = block.adapter
    if isinstance(output, torch.Tensor):
        return adapter(inputs, output)
    return type(output)([adapter(inputs, output[0]), *output[1:]])
