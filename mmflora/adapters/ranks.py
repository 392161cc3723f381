"""The ranks of a Tucker update."""

from collections.abc import Sequence

from .settings import LARGEST_COUNT, is_whole


def tucker_ranks(
    shape: Sequence[int], rank: int | Sequence[int], kernel_rank: int
) -> tuple[int, ...]:
    """Return the rank of each mode, clipped to the mode's size.

    Args:
        shape: The weight's shape ``(out, in // groups, *kernel)``.
        rank: The rank of the first two modes (the channels), or one number
            per mode.
        kernel_rank: The rank of all further modes (the kernel).

    Raises:
        ValueError: If a rank is not an integer of at least 1, or the ranks
            are not one per mode.
    """
    if isinstance(rank, Sequence) and not isinstance(rank, str):
        ranks = tuple(rank)
        if len(ranks) != len(shape):
            raise ValueError(
                f'FLoRA: rank={list(ranks)} names {len(ranks)} modes, but the '
                f'weight of shape {tuple(shape)} has {len(shape)}. Give one '
                'rank per mode, or a single number with `kernel_rank`.'
            )
    else:
        channel_modes = min(2, len(shape))
        ranks = (rank,) * channel_modes + (kernel_rank,) * (
            len(shape) - channel_modes
        )
    for value in (*ranks, kernel_rank):
        if not is_whole(value, 1, LARGEST_COUNT):
            raise ValueError(
                'FLoRA: `rank` and `kernel_rank` are integers of at least 1 '
                f'and at most {LARGEST_COUNT}, got rank={rank!r}, '
                f'kernel_rank={kernel_rank!r}.'
            )
    return tuple(
        min(value, size) for value, size in zip(ranks, shape, strict=True)
    )
