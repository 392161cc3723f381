"""Tucker updates of lower ranks."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .ranked import Ranked, padded
from .ranks import tucker_ranks
from .stored import Settings
from .updates import Update


def lower_tucker(
    method: Any, settings: Settings, rank: int, kernel_rank: int | None
) -> dict[str, Any]:
    """Return the settings of ranks that are at most those of an adapter.

    Args:
        method: FLoRA's class.
        settings: The adapter's.
        rank: The highest rank of the channel modes.
        kernel_rank: That of the kernel's modes; by default the adapter's.

    Raises:
        ValueError: If ``kernel_rank`` is below 1 or above what was trained.
    """
    given = method.setting(settings, 'rank')
    trained = method.setting(settings, 'kernel_rank')
    if isinstance(given, list | tuple):
        channels, kernel = given[:2], list(given[2:])
        trained = max(kernel, default=trained)
    if kernel_rank is not None and not 1 <= kernel_rank <= trained:
        raise ValueError(
            f'A kernel rank of {kernel_rank} cannot be made of one of '
            f'{trained}: give a number from 1 to {trained}.'
        )
    if not isinstance(given, list | tuple):
        return dict(rank=rank, kernel_rank=kernel_rank or trained)
    modes = [min(rank, one) for one in channels]
    return dict(rank=modes + [min(kernel_rank or r, r) for r in kernel])


class NearestTuckers(Ranked):
    """The Tucker updates of lower ranks by HOSVD of the update.

    With orthonormal factors, and the core's components in the order of their
    energy, they are the core's leading blocks.  For matrices they are the
    nearest ones (Eckart and Young), for kernels within a factor √N of the
    least distance (De Lathauwer et al., 2000).  Only the core is decomposed,
    which is small.

    Args:
        method: FLoRA's class.
        update: The update.
        settings: The adapter's.
        scale: s, the factor on the core.
        kernel_rank: See :func:`lower_tucker`.
    """

    def __init__(
        self,
        method: Any,
        update: Update,
        settings: Settings,
        scale: float,
        kernel_rank: int | None = None,
    ) -> None:
        lower_tucker(method, settings, 1, kernel_rank)
        self.update = update.ordered()
        core = self.update.core
        total = float(core.square().sum())
        super().__init__(method, max(core.shape[:2]), total)
        self.given = dict(settings)
        self.scale, self.kernel_rank = scale, kernel_rank

    def settings(self, rank: int) -> dict[str, Any]:
        lower = lower_tucker(self.method, self.given, rank, self.kernel_rank)
        return dict(lower, scale=self.scale)

    def ranks(self, rank: int) -> Sequence[int]:
        """Return the rank of each mode."""
        settings = self.settings(rank)
        return tucker_ranks(
            self.update.shape,
            settings['rank'],
            self.method.setting(settings, 'kernel_rank'),
        )

    def tensors(self, rank: int) -> dict[str, Tensor]:
        ranks = self.ranks(rank)
        block = self.update.core[tuple(map(slice, ranks))]
        found = dict(core=padded(block / self.scale, ranks))
        for mode, factor in enumerate(self.update.factors):
            found[f'factors.{mode}'] = padded(
                factor[:, : ranks[mode]], (len(factor), ranks[mode])
            )
        return found

    def parameters(self, rank: int) -> int:
        ranks = self.ranks(rank)
        sizes = zip(self.update.shape, ranks, strict=True)
        return math.prod(ranks) + sum(size * own for size, own in sizes)

    def kept(self, rank: int) -> float:
        block = self.update.core[tuple(map(slice, self.ranks(rank)))]
        return float(block.square().sum())
