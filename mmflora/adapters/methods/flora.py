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

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..calibrated import CalibratedAdapter
from ..functional import moved_factors, tucker_to_low_rank, tucker_to_weight
from ..layer_weights import frozen_weight
from ..lower_ranks import LowerRanks
from ..lower_tuckers import NearestTuckers, lower_tucker
from ..precision import full_precision
from ..ranks import tucker_ranks
from ..settings import check_choice, check_factor
from ..stored import Part, Settings, Tensors
from ..updates import Update, weighted_sum

STARTS = ('random', 'weight', 'gradient')


@ADAPTERS.register_module()
class FLoRA(LowerRanks, CalibratedAdapter):
    """Tucker update ΔW = s · G ×1 A1 ×2 A2 … ×N AN (FLoRA, eq. 4).

    Training starts at the frozen weight.  The starts:

    - ``'random'``, the paper's: the core G is zero, the factors are Gaussians
      (Kaiming's with a = √3 over the rank);
    - ``'weight'``: G and the factors are the higher-order singular value
      decomposition of the weight, which is PiSSA's idea mode by mode; what
      they were is kept, and ΔW = s · (G ×1 A1 … − G0 ×1 A01 …);
    - ``'gradient'``: the core is zero, the factors are the leading singular
      vectors, mode by mode, of the averaged gradient of the weight: the
      spans that full fine-tuning would move first.  It needs ``calibration``
      beside ``adapter``.

    The latter two are not the paper's.

    Args:
        weight: The frozen weight, shape ``(out, in // groups, *kernel)`` of a
            convolution or ``(out, in)`` of a linear layer.
        rank: Rank of the two channel modes (the paper's r1 = r2), or one rank
            per mode.
        kernel_rank: Rank of the kernel's modes (the paper's r3).
        scale: The paper's s.
        start: See above.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a rank is below 1 or no integer, or if ``scale`` is
            zero or not finite, or the start unknown.

    Example:
        >>> adapter = dict(type='FLoRA', rank=16, kernel_rank=2, scale=4.0)
        >>> peft = dict(
        ...     adapter=dict(type='FLoRA', rank=16, start='gradient'),
        ...     calibration=dict(batches=8),
        ... )
    """

    start_core: Tensor
    paper = 'Si et al., 2025, arXiv:2405.14739'

    def __init__(
        self,
        weight: Tensor,
        rank: int | Sequence[int] = 16,
        kernel_rank: int = 2,
        scale: float = 4.0,
        dropout: float = 0.0,
        path: str = 'auto',
        start: str = 'random',
    ) -> None:
        super().__init__(weight, dropout, path)
        self.scale = check_factor('FLoRA', 'scale', scale)
        self.start = check_choice('FLoRA', 'start', start, STARTS)
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
        if start == 'gradient':
            self.ask_for('gradient', weight)
        elif start == 'weight':
            self.register_buffer('start_core', self.core.detach().clone())
            self.start_factors = nn.Module()
            for mode, factor in enumerate(self.factors):
                copy = factor.detach().clone()
                self.start_factors.register_buffer(str(mode), copy)
            self._begin(weight)

    def reset_parameters(self) -> None:
        """Set the core to zero and draw the factors again."""
        nn.init.zeros_(self.core)
        for factor in self.factors:
            nn.init.kaiming_normal_(factor, a=math.sqrt(3))

    @torch.no_grad()
    def _begin(self, weight: Tensor) -> None:
        """Start at the weight's higher-order decomposition."""
        matrix = weight.detach().to(self.core.dtype)
        best = Update(matrix.double()).truncated(self.ranks)
        self.start_core.copy_(best.core / self.scale)
        self.core.copy_(self.start_core)
        for own, start, basis in zip(
            self.factors,
            self.start_factors.buffers(),
            best.factors,
            strict=True,
        ):
            start.copy_(basis)
            own.copy_(start)

    def follow(self, layer: nn.Module) -> None:
        super().follow(layer)
        if self.start == 'weight':
            self._begin(frozen_weight(layer))

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Take the spans of a gradient's modes as the factors."""
        best = Update(statistic.double()).truncated(self.ranks)
        for factor, basis in zip(self.factors, best.factors, strict=True):
            factor.copy_(basis)

    def _terms(self) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Return core and factors, and those that are taken off."""
        terms: list[tuple[Tensor, tuple[Tensor, ...]]] = [
            (self.core, tuple(self.factors))
        ]
        if self.start == 'weight':
            start = tuple(self.start_factors.buffers())
            terms.append((self.start_core, start))
        return terms

    def delta_weight(self) -> Tensor:
        """Return s · G ×1 A1 … ×N AN, in the weight's shape.

        Autocast is left aside: the update is added to the weight in full
        precision and rounded once, together with it.
        """
        if self.start == 'weight':
            return Adapter.delta_weight(self)
        with full_precision(self.core.device.type):
            ((core, factors),) = self._terms()
            return self.scale * tucker_to_weight(core, factors)

    def low_rank(self) -> LowRank:
        """Return ΔW = L R: L is the first factor, R what the others span.

        The rank is the smaller one of the two channel modes for a linear
        layer, that of the output channels for a kernel.
        """
        with full_precision(self.core.device.type):
            # The core is small, so that no factor is copied.
            terms = [
                tucker_to_low_rank(self.scale * core, factors)
                for core, factors in self._terms()
            ]
            if len(terms) == 1:
                return LowRank(*terms[0])
            return LowRank(*moved_factors(*terms[0], *terms[1]))

    def update(self) -> Update:
        """Return core and factors."""
        terms = self._updates()
        return weighted_sum(terms, (1, -1)) if len(terms) > 1 else terms[0]

    def _updates(self) -> list[Update]:
        return [
            Update(self.scale * core.double(), tuple(a.double() for a in own))
            for core, own in self._terms()
        ]

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
        own = {one.get('start') == 'weight' for one in settings}
        if len(own) > 1:
            raise ValueError(
                "FLoRA's with start='weight' and others have no sum of "
                "FLoRA's form."
            )
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
        weights = [part.weight for part in parts]
        updates = [
            cls.restored(part.tensors, part.settings)._updates()
            for part in parts
        ]
        found: dict[str, Tensor] = {}
        for prefix, terms in zip(
            ('', 'start_'), zip(*updates, strict=True), strict=False
        ):
            total = weighted_sum(terms, weights)
            scale = cls.blank(total.shape, settings).scale
            found[f'{prefix}core'] = total.core / scale
            for mode, factor in enumerate(total.factors):
                found[f'{prefix}factors.{mode}'] = factor
        if settings.get('start') == 'gradient':
            found['calibrated'] = torch.ones(1, dtype=torch.float64)
        return found

    @classmethod
    def trained_rank(cls, settings: Settings) -> int:
        rank = cls.setting(settings, 'rank')
        return max(rank[:2]) if isinstance(rank, list | tuple) else int(rank)

    @classmethod
    def at_rank(
        cls, settings: Settings, rank: int, kernel_rank: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of a prefix in the channel modes."""
        return {**settings, **lower_tucker(cls, settings, rank, kernel_rank)}

    def squeezes(self) -> bool:
        return type(self) is FLoRA and self.start != 'weight'

    def squeezed(self, rank: int) -> dict[str, Tensor]:
        """Return core and factors of the truncated HOSVD."""
        update, own = self._updates()[0], dict(rank=list(self.ranks))
        return NearestTuckers(FLoRA, update, own, self.scale).tensors(rank)

    @classmethod
    def nearest(
        cls,
        tensors: Tensors,
        settings: Settings,
        kernel_rank: int | None = None,
    ) -> NearestTuckers:
        """Return FLoRAs of the same scale."""
        update = cls.whole_update(tensors, settings)
        scale = cls.blank(update.shape, settings).scale
        if settings.get('start') == 'weight':  # whose update is two such
            settings = {**settings, **cls.summed_settings([settings] * 2)}
        return NearestTuckers(FLoRA, update, settings, scale, kernel_rank)

    def core_parameters(self) -> Iterator[nn.Parameter]:
        if self.start != 'weight':
            yield self.core

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield all that would lose the start to W at zero."""
        if self.start == 'weight':
            yield from (self.core, *self.factors)

    def remark(self) -> str:
        return f'ranks clipped to {self.ranks}' if self.clipped else ''

    def meaning(self) -> dict[str, Any]:
        own = dict(start='weight') if self.start == 'weight' else {}
        return dict(ranks=self.ranks, scale=self.scale) | own
