"""FLoRA: a Tucker core and one factor per mode of the weight.

Si et al., "Maintaining Structural Integrity in Parameter Spaces for Parameter
Efficient Fine-tuning" (ICLR 2025), equations 4 to 6.  A convolution's update
stays a convolution: its kernel's height and width are modes of their own.

Differences from the authors' released layer: dimensions are the weight's
own, so that grouped and depthwise convolutions work; ranks are clipped to
the size of their mode.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..functional import tucker_to_low_rank, tucker_to_weight
from ..precision import full_precision
from ..settings import LARGEST_COUNT, check_factor, is_whole
from ..stored import Part, Settings, Tensors
from ..updates import Update, weighted_sum


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


@ADAPTERS.register_module()
class FLoRA(Adapter):
    """Tucker update ΔW = s · G ×1 A1 ×2 A2 … ×N AN (FLoRA, eq. 4).

    The core G starts at zero, the factors as Gaussians (Kaiming's with
    a = √3 over the rank), so that training starts at the frozen weight.

    Args:
        weight: The frozen weight, shape ``(out, in // groups, *kernel)`` of a
            convolution or ``(out, in)`` of a linear layer.
        rank: Rank of the two channel modes (the paper's r1 = r2), or one rank
            per mode.
        kernel_rank: Rank of the kernel's modes (the paper's r3).
        scale: The paper's s.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a rank is below 1 or no integer, or if ``scale`` is
            zero or not finite.

    Example:
        >>> adapter = dict(type='FLoRA', rank=16, kernel_rank=2, scale=4.0)
    """

    paper = 'Si et al., 2025, arXiv:2405.14739'

    def __init__(
        self,
        weight: Tensor,
        rank: int | Sequence[int] = 16,
        kernel_rank: int = 2,
        scale: float = 4.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        self.scale = check_factor('FLoRA', 'scale', scale)
        self.kernel_rank = kernel_rank
        wanted = tucker_ranks((sys.maxsize,) * weight.dim(), rank, kernel_rank)
        self.ranks = tucker_ranks(weight.shape, rank, kernel_rank)
        self.clipped = self.ranks != wanted
        self.core = self.parameter_like(weight, *self.ranks)
        self.factors = nn.ParameterList(
            self.parameter_like(weight, size, mode_rank)
            for size, mode_rank in zip(weight.shape, self.ranks, strict=True)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the core to zero and draw the factors again."""
        nn.init.zeros_(self.core)
        for factor in self.factors:
            nn.init.kaiming_normal_(factor, a=math.sqrt(3))

    def delta_weight(self) -> Tensor:
        """Return s · G ×1 A1 … ×N AN, in the weight's shape.

        Autocast is left aside: the update is added to the weight in full
        precision and rounded once, together with it.
        """
        with full_precision(self.core.device.type):
            return self.scale * tucker_to_weight(
                self.core, tuple(self.factors)
            )

    def low_rank(self) -> LowRank:
        """Return ΔW = L R: L is the first factor, R what the others span.

        The rank is the smaller one of the two channel modes for a linear
        layer, that of the output channels for a kernel.
        """
        with full_precision(self.core.device.type):
            core = self.scale * self.core  # small, so that no factor is copied
            return LowRank(*tucker_to_low_rank(core, tuple(self.factors)))

    def update(self) -> Update:
        """Return core and factors."""
        core = self.scale * self.core.double()
        return Update(core, tuple(a.double() for a in self.factors))

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        modes = range(tensors['core'].dim())
        return tuple(len(tensors[f'factors.{mode}']) for mode in modes)

    @classmethod
    def has_sums(cls) -> bool:
        return True

    @classmethod
    def summed_settings(cls, settings: Sequence[Settings]) -> dict[str, Any]:
        ranks = [cls.setting(one, 'rank') for one in settings]
        kernels = [cls.setting(one, 'kernel_rank') for one in settings]
        lists = [isinstance(rank, list | tuple) for rank in ranks]
        if all(lists):
            return dict(rank=[sum(mode) for mode in zip(*ranks, strict=True)])
        if any(lists):
            raise ValueError(
                f'The adapters give their ranks as {ranks}: a sum needs '
                'either a number from all of them or a list from all of them.'
            )
        return dict(rank=sum(ranks), kernel_rank=sum(kernels))

    @classmethod
    def summed(
        cls, parts: Sequence[Part], settings: Settings
    ) -> dict[str, Tensor]:
        """Put cores into one core's blocks, and factors side by side."""
        updates = [
            cls.restored(part.tensors, part.settings).update()
            for part in parts
        ]
        total = weighted_sum(updates, [part.weight for part in parts])
        found = {'core': total.core / cls.blank(total.shape, settings).scale}
        for mode, factor in enumerate(total.factors):
            found[f'factors.{mode}'] = factor
        return found

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.core

    def remark(self) -> str:
        return f'ranks clipped to {self.ranks}' if self.clipped else ''

    def meaning(self) -> dict[str, Any]:
        return dict(ranks=self.ranks, scale=self.scale)
