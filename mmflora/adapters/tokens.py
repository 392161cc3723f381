"""Tokens that a method adds to those of a plain transformer's blocks.

They stand behind all others.  Attention does not know the order of its
tokens, so this is the same as any other place; and a block that counts its
class and register tokens from the front still finds them.  They have no
position: rotary embeddings do not turn them.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CannotAdapt
from .blocks import last_weight, output_channels

# What a module has whose attention needs the patches of a whole map or
# window, and nothing else.
_OF_PATCHES = (
    'window_size',
    'relative_position_bias_table',
    'rel_pos',
    'rel_pos_bias',
    'rel_pos_h',
    'attention_biases',
)


def width_of_tokens(block: nn.Module, any_place: bool = False) -> int:
    """Return the width of a block of a plain transformer.

    Args:
        block: The block.
        any_place: Whether its attention has to take tokens that have no place
            in a map or window.

    Raises:
        CannotAdapt: If the block is of no plain transformer.
    """
    modules = list(block.modules())
    for module in modules:
        weight = module._parameters.get('weight')
        if weight is not None and weight.dim() > 2:
            raise CannotAdapt(
                'the method is for tokens of a plain transformer, and this '
                f'block has a {type(module).__name__} with a kernel'
            )
        for name in _OF_PATCHES if any_place else ():
            value = getattr(module, name, None)
            if isinstance(value, Tensor | nn.Module) or bool(value):
                raise CannotAdapt(
                    'prompts are tokens without a position, and '
                    f'{type(module).__name__}.{name} needs one of each token'
                )
    if not any(hasattr(module, 'num_heads') for module in modules):
        raise CannotAdapt(
            'the method is for tokens of a plain transformer, and this block '
            'has no attention'
        )
    return output_channels(last_weight(block))


def add_tokens(
    place: str,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    added: Tensor,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a block's arguments with more tokens.

    Args:
        place: Method and block, for the error.
        arguments: The block's; the tokens come first, shape ``(N, L, C)``.
        named: Its named arguments; ``rope`` gets a row per added token that
            turns nothing.
        added: Shape ``(N, p, C)``, or ``(p, C)`` for each image alike.

    Raises:
        ValueError: If the block takes no such tokens, or another tensor of
            which nothing is known.
    """
    values: dict[Any, Any] = {**dict(enumerate(arguments)), **named}
    first = next(iter(values))
    tokens = values[first]
    if tokens.dim() != 3 or tokens.shape[-1] != added.shape[-1]:
        raise ValueError(
            f'{place}: it gets a tensor of shape '
            f'{tuple(tokens.shape)}; prompts join tokens of shape '
            f'(N, tokens, {added.shape[-1]}), those of a plain transformer. '
            'Leave the block out with `exclude`, or take another method.'
        )
    for name, value in values.items():
        if name not in (first, 'rope') and isinstance(value, Tensor):
            raise ValueError(
                f'{place}: it gets the tensor {name!r} beside its '
                'tokens, and it is not known what it means for prompts. '
                'Leave the block out with `exclude`, or take another method.'
            )
    added = added.to(tokens.dtype).expand(len(tokens), -1, -1)
    values[first] = torch.cat([tokens, added], dim=1)
    if values.get('rope') is not None:
        values['rope'] = _without_turning(values['rope'], added.shape[1])
    count = len(arguments)
    return (
        tuple(values[i] for i in range(count)),
        {name: values[name] for name in named},
    )


def split_tokens(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the block's own tokens, and the ``count`` added ones."""
    own = tokens.shape[1] - count
    return tokens[:, :own], tokens[:, own:]


def _without_turning(rope: Tensor, count: int) -> Tensor:
    """Add rows of angle 0 to rotary embeddings, sines beside cosines.

    Args:
        rope: Shape ``(..., patches, 2 · D)``.
        count: How many rows.
    """
    sines, cosines = rope.chunk(2, dim=-1)
    rows = (0, 0, 0, count)
    return torch.cat([F.pad(sines, rows), F.pad(cosines, rows, value=1)], -1)
