"""DyLoRA: nested ranks, of which each iteration trains one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..precision import full_precision
from ..sampled import SampledRanks, nested_ranks
from ..settings import check_count, check_factor, check_flag
from ..stored import Settings
from .lora import LoRA


@ADAPTERS.register_module()
class DyLoRA(SampledRanks, LoRA):
    """ΔW = s_b B[:, :b] A[:b]; each iteration of the training draws a rank b.

    Valipour et al., "DyLoRA: Parameter Efficient Tuning of Pre-trained Models
    using Dynamic Search-Free Low-Rank Adaptation" (EACL 2023): one b for all
    layers, each of the ranks as likely as another, s_b = alpha / b; all b
    components train (not the b-th alone, which is a variant of the paper's).
    ``SampledRankHook``, one of the hooks of every config, draws b from the
    run's seed and the iteration.  Elsewhere the whole rank counts.

    With ``per_layer`` each layer draws a b of its own, and 0, the frozen
    layer, may be one of them: a supernet whose architectures
    ``tools/search_adapters.py`` compares.

    Convolutions have LoRA's spatial form.

    Args:
        weight: The frozen weight.
        rank: The highest rank.
        alpha: s_b = alpha / b.
        ranks: The ranks to draw from; by default all.
        rslora: Divide by √b instead.
        per_layer: See above.
        scale: s_b for all b, instead of one by ``alpha``; NOAH's is 1.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` or ``scale`` is no number, or ``rslora`` or
            ``per_layer`` no flag.
        ValueError: If a rank is no integer of at least 1, ``ranks`` lack the
            highest, or ``alpha`` or ``scale`` is zero or not finite.

    Example:
        >>> adapter = dict(type='DyLoRA', rank=8, alpha=16)
        >>> adapter = dict(
        ...     type='DyLoRA', rank=8, ranks=[0, 2, 4, 8], per_layer=True
        ... )
    """

    paper = 'Valipour et al., 2023, arXiv:2210.07558'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float = 16.0,
        ranks: Sequence[int] | None = None,
        rslora: bool = False,
        dropout: float = 0.0,
        path: str = 'auto',
        per_layer: bool = False,
        scale: float | None = None,
    ) -> None:
        check_count('DyLoRA', 'rank', rank)
        alone = check_flag('DyLoRA', 'per_layer', per_layer)
        every = range(1, rank + 1) if ranks is None else ranks
        given = list(every) if isinstance(every, range) else every
        self_ranks = nested_ranks('DyLoRA', rank, given, least=int(not alone))
        super().__init__(
            weight, rank, alpha, rslora=rslora, dropout=dropout, path=path
        )
        self.sampled_ranks, self.root = self_ranks, rslora
        self.per_layer, self.one_scale = alone, scale
        if scale is not None:
            self.scale = check_factor('DyLoRA', 'scale', scale)

    def squeezes(self) -> bool:
        return False

    def delta_weight(self) -> Tensor:
        """Return s_b B A of the components that count."""
        return Adapter.delta_weight(self)

    def low_rank(self) -> LowRank:
        """Return L = s_b B and R = A of the components that count."""
        rank, share = self.counted(self.rank)
        scale = self.one_scale or self.alpha / (
            rank**0.5 if self.root else rank
        )
        with full_precision(self.up.device.type):
            left = scale * share * self.up[:, :rank]
            return LowRank(left, self.down[:rank])

    @classmethod
    def prefix_method(cls) -> type[LoRA]:
        return LoRA

    @classmethod
    def scaled_by_rank(cls, settings: Settings) -> bool:
        return cls.setting(settings, 'scale') is None

    @classmethod
    def at_rank(
        cls, settings: Settings, rank: int, kernel_rank: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of the LoRA that a prefix is."""
        fixed = cls.setting(settings, 'scale')
        if fixed is not None:
            own = dict(alpha=fixed * rank)
            return LoRA.at_rank(dict(own, rank=rank), rank, kernel_rank)
        known = ('alpha', 'rslora')
        own = {name: cls.setting(settings, name) for name in known}
        return LoRA.at_rank(dict(own, rank=rank), rank, kernel_rank)
