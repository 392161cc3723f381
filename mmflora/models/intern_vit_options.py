"""What InternViT accepts as its options, and what it says to others."""

from collections.abc import Sequence

import torch

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}


def patch_grid(img_size: int | Sequence[int], patch: int) -> tuple[int, int]:
    """Return rows and columns of patches.

    Args:
        img_size: Height and width, or one number for both.
        patch: Side of a patch.

    Raises:
        ValueError: If a side is no multiple of the patch.
    """
    sides = (img_size,) * 2 if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or any(side < patch or side % patch for side in sides):
        raise ValueError(
            f'InternViT: `img_size` is a multiple of patch_size={patch}, or '
            f'two (height, width), got {img_size!r}.'
        )
    return sides[0] // patch, sides[1] // patch


def check_out_indices(
    out_indices: Sequence[int], depth: int, pyramid: bool
) -> tuple[int, ...]:
    """Return the blocks whose outputs are wanted.

    Raises:
        ValueError: If they are not ascending blocks, or not four of them
            where there is a pyramid.
    """
    indices = tuple(out_indices)
    if not indices or list(indices) != sorted(
        set(indices) & set(range(depth))
    ):
        raise ValueError(
            'InternViT: `out_indices` are ascending blocks out of '
            f'0 … {depth - 1}, got {out_indices!r}.'
        )
    if pyramid and len(indices) != 4:
        raise ValueError(
            'InternViT: the pyramid has four levels, so `out_indices` are '
            f'four blocks, got {out_indices!r}. Set pyramid=False for others.'
        )
    return indices


def check_with_cp(with_cp: bool | str) -> bool | str:
    """Return the kind of activation checkpointing.

    Raises:
        ValueError: If it is another one.
    """
    if with_cp not in (True, False, 'mlp'):
        raise ValueError(
            f"InternViT: `with_cp` is True, False or 'mlp', got {with_cp!r}."
        )
    return with_cp


def check_dtype(dtype: str | None) -> torch.dtype | None:
    """Return the type in which the base is kept, ``None`` for the default.

    Raises:
        ValueError: If it is another one.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(
            f'InternViT: `dtype` is None or one of {", ".join(DTYPES)}, got '
            f'{dtype!r}.'
        )
    return DTYPES[dtype] if dtype else None
