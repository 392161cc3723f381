"""Block adapters: what a method adds around a block of the model.

Forward hooks run them, which leaves the block's class, its forward pass and
its keys alone; their own parameters stand under ``<block>.adapter``.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import AdapterBase, CannotAdapt
from .targets import compile_patterns, first_match


class BlockAdapter(AdapterBase):
    """What a method adds to a block: it sees what goes in and comes out.

    A method overrides :meth:`enter`, :meth:`forward` or both; by default the
    block computes as it is.  It cannot be merged, as it is no change of a
    weight.

    Attributes:
        places: Pattern of the names of the blocks that the method adapts;
            ``targets`` chooses among them.  Of blocks within others the
            outermost counts.
    """

    mergeable = False
    places: ClassVar[str] = ''

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

        Args:
            inputs: The block's first argument, as :meth:`enter` returns it.
            output: What the block made of it.
        """
        return output


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


def adapt_block(block: nn.Module, adapter: BlockAdapter) -> nn.Module:
    """Give a block its adapter, in place."""
    block.adapter = adapter.train(block.training)
    block.register_forward_pre_hook(_enter, with_kwargs=True)
    block.register_forward_hook(_run, with_kwargs=True)
    return block


def restore_block(block: nn.Module) -> nn.Module:
    """Take a block's adapter away again."""
    drop_hook(block, _enter)
    drop_hook(block, _run)
    del block.adapter
    vars(block).pop('adapter_enabled', None)
    return block


def drop_hook(module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Take a hook off a module's forward pass; return whether it had it."""
    found = False
    for hooks, with_kwargs in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key in [key for key, own in hooks.items() if own is hook]:
            del hooks[key]
            with_kwargs.pop(key, None)
            found = True
    return found


def _enter(
    block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    """Let the adapter change what a block gets."""
    if not getattr(block, 'adapter_enabled', True):
        return None
    adapter: Any = block.adapter
    return adapter.enter(arguments, named)


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
