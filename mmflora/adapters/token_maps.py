"""Tokens as the map that they are, for adapters that look at neighbours."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Grid
from .hooks import drop_hook

_EMBEDDING = re.compile(r'(.*\.)?patch_embed\w*(\..*)?')


def patch_convolution(model: nn.Module) -> nn.Module | None:
    """Return the convolution that makes tokens of an image, if any.

    It is the last one of the patch embedding, else the model's first.
    """
    convolutions = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    embedding = [n for n in convolutions if _EMBEDDING.fullmatch(n)]
    name = (embedding[-1:] or list(convolutions)[:1] or [''])[0]
    return convolutions.get(name)


def watch_grid(block: nn.Module, model: nn.Module) -> None:
    """Let a block know the map that its tokens are, see :func:`grid_of`."""
    patches = patch_convolution(model)
    vars(block)['patches'] = patches
    if patches is not None and 'grid' not in vars(patches):
        vars(patches)['grid'] = None
        patches.register_forward_hook(_note_grid)


def unwatch_grid(block: nn.Module) -> None:
    """Undo :func:`watch_grid`."""
    patches = vars(block).pop('patches', None)
    if patches is not None and drop_hook(patches, _note_grid):
        del vars(patches)['grid']


def _note_grid(patches: nn.Module, arguments: Any, output: Tensor) -> None:
    """Note height and width of the map that the patches make."""
    vars(patches)['grid'] = (output.shape[-2], output.shape[-1])


def grid_of(
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    patches: nn.Module | None,
) -> Grid | None:
    """Return height and width of the map that a block's tokens are.

    Swin's blocks are called with them, as ``hw_shape``; in a plain
    transformer they are those of the patches.
    """
    for value in (*arguments, *named.values()):
        if isinstance(value, (tuple, list)) and len(value) == 2:
            height, width = value
            if isinstance(height, int) and isinstance(width, int):
                return height, width
    found: Grid | None = vars(patches).get('grid') if patches else None
    return found


def on_map(
    function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid | None
) -> Tensor:
    """Apply a function of maps to tokens.

    Tokens that stand before those of the map, as class and register tokens
    do, have no neighbours and get zero.

    Args:
        function: From ``(N, C, H, W)`` to the same shape.
        x: Channels come last: ``(N, H, W, C)`` or ``(N, tokens, C)``.
        grid: Height and width, for the latter.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: If the tokens are no map of a known size.
    """
    if x.dim() == 4:
        return function(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    before, size = _before(x, grid)
    tokens = x[:, before:].transpose(1, 2).unflatten(2, size)
    made = function(tokens).flatten(2).transpose(1, 2)
    others = torch.zeros_like(x[:, :before])
    return torch.cat([others, made], 1) if before else made


def as_map(
    x: Tensor, channels: int, in_front: bool, grid: Grid | None
) -> Tensor:
    """Return tokens as the map that they are, without those of no patch.

    Args:
        x: ``(N, C, H, W)``, ``(N, H, W, C)`` or ``(N, tokens, C)``.
        channels: C.
        in_front: Whether the first of these is to be tried first.
        grid: Height and width, for the last.

    Returns:
        Shape ``(N, C, H, W)``.

    Raises:
        ValueError: See :func:`on_map`.
    """
    if x.dim() == 4:
        last = x.shape[-1] == channels
        front = x.shape[1] == channels
        return x if front and (in_front or not last) else x.permute(0, 3, 1, 2)
    before, size = _before(x, grid)
    return x[:, before:].transpose(1, 2).unflatten(2, size)


def _before(x: Tensor, grid: Grid | None) -> tuple[int, Grid]:
    """Return how many tokens stand before those of the map, and its size."""
    before = -1 if grid is None else x.shape[1] - grid[0] * grid[1]
    if x.dim() != 3 or grid is None or before < 0:
        size = 'an unknown size' if grid is None else f'{grid[0]} x {grid[1]}'
        raise ValueError(
            f'Tensors of shape {tuple(x.shape)} are no map of {size}: an '
            'adapter that looks at neighbours needs maps, tokens of the '
            'patches of one image, or blocks that are called with '
            '`hw_shape`. Choose other blocks with `targets`, or a method '
            'without convolutions, such as Houlsby.'
        )
    return before, grid
