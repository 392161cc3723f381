"""The forward hooks in which block adapters run."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .base import CannotAdapt
from .blocks import BlockAdapter, Grid
from .hooks import drop_hook
from .side_network import SideNetwork, hook_side_network, unhook_side_network
from .token_maps import grid_of, unwatch_grid, watch_grid
from .tuning import is_norm

_MLPS = ('mlp', 'ffn')


def adapt_block(
    block: nn.Module, adapter: BlockAdapter, model: nn.Module
) -> nn.Module:
    """Give a block its adapter, in place.

    Args:
        block: The block.
        adapter: Its adapter.
        model: The model that the block is in.

    Raises:
        CannotAdapt: If it cannot be found where the block's sum is made.
    """
    if isinstance(adapter, SideNetwork):
        hook_side_network(block, adapter)
    elif adapter.at_sum:
        _hook_sum(block, adapter, model)
    else:
        block.register_forward_pre_hook(_enter, with_kwargs=True)
        block.register_forward_hook(_run, with_kwargs=True)
    if adapter.spatial:
        watch_grid(block, model)
    block.adapter = adapter.train(block.training)
    return block


def restore_block(block: nn.Module) -> nn.Module:
    """Take a block's adapter away again."""
    drop_hook(block, _enter)
    drop_hook(block, _run)
    for module in vars(block).pop('around', ()):
        drop_hook(module, _add_to_sum)
        drop_hook(module, _note_shortcut)
        vars(module).pop('ends', None)
        vars(module).pop('starts', None)
    if isinstance(block.adapter, SideNetwork):
        unhook_side_network(block)
    unwatch_grid(block)
    del block.adapter
    vars(block).pop('adapter_enabled', None)
    return block


def sum_around(
    block: nn.Module, model: nn.Module
) -> tuple[nn.Module | None, nn.Module]:
    """Find where the sum of a block and its shortcut is made.

    Returns:
        A module whose input is the shortcut, and one whose output is added
        to it.  ``None`` in place of the first says that the output of the
        second is the sum already.

    Raises:
        CannotAdapt: If that is not to be seen from the block's parent.
    """
    for parent in model.modules():
        children = dict(parent.named_children())
        if block in children.values():
            break
    else:
        raise CannotAdapt('it is the whole model, and has no shortcut')
    if isinstance(parent, (nn.Sequential, nn.ModuleList)):
        raise CannotAdapt(f'it stands in a {type(parent).__name__}')
    names = list(children)
    name = names[list(children.values()).index(block)]
    if name in _MLPS or not any(mlp in names for mlp in _MLPS):
        return None, parent
    end = children.get('drop_path1', block)
    if end is block and ('drop_path' in names or parent._parameters):
        raise CannotAdapt(
            f'{type(parent).__name__} changes its output before it adds it'
        )
    before = [c for c in names[: names.index(name)] if is_norm(children[c])]
    return children[before[-1]] if before else parent, end


def _hook_sum(block: nn.Module, adapter: Any, model: nn.Module) -> None:
    start, end = sum_around(block, model)
    if any(isinstance(child, nn.Conv2d) for child in end.children()):
        adapter.spatial_dims = 2  # maps have their channels in front
    vars(block)['around'] = [end] if start is None else [start, end]
    vars(end)['ends'] = block
    end.register_forward_hook(_add_to_sum, with_kwargs=True)
    if start is not None:
        vars(start)['starts'] = block
        start.register_forward_pre_hook(_note_shortcut)


def _note_shortcut(start: nn.Module, arguments: tuple[Any, ...]) -> None:
    block = vars(start)['starts']
    if getattr(block, 'adapter_enabled', True):
        vars(block)['shortcut'] = arguments[0]


def _add_to_sum(
    end: nn.Module,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    output: Any,
) -> Any:
    """Add u(h) for the sum h to what the sum is made of."""
    block = vars(end)['ends']
    if not getattr(block, 'adapter_enabled', True):
        return None
    shortcut = vars(block).pop('shortcut', None)
    grid = _grid(block, arguments, named)

    def adapted(branch: Tensor) -> Tensor:
        # Blocks of mmcv are given the shortcut, and add it themselves.
        whole = shortcut is None or 'identity' in named
        if not whole and shortcut.shape != branch.shape:
            raise ValueError(
                f'{type(block.adapter).__name__}: a shortcut of shape '
                f'{tuple(shortcut.shape)} and a branch of shape '
                f'{tuple(branch.shape)} are changed before their sum. Leave '
                'such blocks out with `exclude`.'
            )
        total = branch if whole else shortcut + branch
        whole_block: Tensor = branch + block.adapter.added(total, grid)
        return whole_block

    return _first(adapted, output)


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
    """Adapt a block's output."""
    if not getattr(block, 'adapter_enabled', True):
        return None
    inputs = arguments[0] if arguments else next(iter(named.values()))
    adapter: Any = block.adapter
    more = (_grid(block, arguments, named),) if adapter.spatial else ()
    return _first(lambda made: adapter(inputs, made, *more), output)


def _grid(
    block: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> Grid | None:
    return grid_of(arguments, named, vars(block).get('patches'))


def _first(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Apply a function to an output; of several, to the first."""
    if isinstance(output, Tensor):
        return function(output)
    return type(output)([function(output[0]), *output[1:]])
