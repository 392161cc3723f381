"""The frozen layers between stages, for networks beside a backbone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import CannotAdapt
from .precision import full_precision
from .token_maps import as_map

_JOIN = re.compile(r'(.*\.)?downsample')


def find_joins(
    backbone: nn.Module, blocks: Sequence[nn.Module], stages: Sequence[int]
) -> dict[int, nn.Module]:
    """Return the downsampling layer before the first block of each stage.

    Args:
        backbone: The backbone.
        blocks: Its blocks.
        stages: The stage of each block, in rising order.

    Returns:
        By the number of the block; the first stage has none.

    Raises:
        CannotAdapt: If there is not one such layer between two stages.
    """
    inner = {id(module) for block in blocks for module in block.modules()}
    order = {id(module): i for i, module in enumerate(backbone.modules())}
    named = {
        order[id(module)]: module
        for name, module in backbone.named_modules()
        if _JOIN.fullmatch(name)
        and id(module) not in inner
        and next(module.parameters(), None) is not None
    }
    joins = {}
    for index in range(1, len(stages)):
        if stages[index] == stages[index - 1]:
            continue
        start, end = (order[id(one)] for one in blocks[index - 1 : index + 1])
        between = [named[place] for place in named if start < place < end]
        if len(between) != 1:
            raise CannotAdapt(
                'the method runs what joins two stages on a map of its own, '
                f'and between two of its stages there are {len(between)} '
                'layers called `downsample`, not one; Ladder needs none'
            )
        joins[index] = between[0]
    return joins


def note_entering(
    join: nn.Module,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    _: Any,
) -> None:
    """Note what enters a join, while a network beside the model waits."""
    if vars(join)['beside'].adapter._waiting is not None:
        vars(join)['entered'] = (arguments, named)


def through_join(join: nn.Module, z: Tensor, behind: Tensor) -> Tensor:
    """Return T(x + z) - T(x) for what entered a join T last, x.

    It is computed without autocast, in which a small z would be lost.

    Args:
        join: T, frozen.
        z: A map, shape ``(N, C, H, W)``.
        behind: A map of the next stage.

    Returns:
        The shape of ``behind``.
    """
    (x, *more), named = vars(join).pop('entered')
    in_front = any(isinstance(part, nn.Conv2d) for part in join.modules())
    if x.dim() == 3:
        z = z.flatten(2).transpose(1, 2)
    elif not in_front:
        z = z.permute(0, 2, 3, 1)
    kinds = [p.dtype for p in join.parameters() if p.is_floating_point()]
    kind = kinds[0] if kinds else z.dtype
    x, z = x.detach().to(kind), z.to(kind)

    def mapped(entering: Tensor) -> Tensor:
        made = join(entering, *more, **named)
        made = made if isinstance(made, Tensor) else made[0]
        grid = (behind.shape[-2], behind.shape[-1])
        return as_map(made, behind.shape[1], in_front, grid)

    with full_precision(x.device.type):
        with torch.no_grad():
            frozen = mapped(x)
        return mapped(x + z) - frozen
