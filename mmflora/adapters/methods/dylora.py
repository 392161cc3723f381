"""DyLoRA: nested ranks, of which each iteration trains one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..precision import full_precision
from ..settings import check_count
from ..stored import Settings
from .lora import LoRA
from .matryoshka import nested_ranks


@ADAPTERS.register_module()
class DyLoRA(LoRA):
    """ΔW = s_b B[:, :b] A[:b]; each iteration of the training draws a rank b.

    Valipour et al., "DyLoRA: Parameter Efficient Tuning of Pre-trained Models
    using Dynamic Search-Free Low-Rank Adaptation" (EACL 2023): one b for all
    layers, each of the ranks as likely as another, s_b = alpha / b; all b
    components train (not the b-th alone, which is a variant of the paper's).
    ``SampledRankHook``, one of the hooks of every config, draws b from the
    run's seed and the iteration.  Elsewhere the whole rank counts.

    Convolutions have LoRA's spatial form.

    Args:
        weight: The frozen weight.
        rank: The highest rank.
        alpha: s_b = alpha / b.
        ranks: The ranks to draw from; by default all.
        rslora: Divide by √b instead.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` is no number or ``rslora`` no flag.
        ValueError: If a rank is no integer of at least 1, ``ranks`` lack the
            highest, or ``alpha`` is zero or not finite.

    Attributes:
        prefix: The rank that counts; ``None`` for the whole one.

    Example:
        >>> adapter = dict(type='DyLoRA', rank=8, alpha=16)
    """

    paper = 'Valipour et al., 2023, arXiv:2210.07558'
    prefix: int | None = None

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float = 16.0,
        ranks: Sequence[int] | None = None,
        rslora: bool = False,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        check_count('DyLoRA', 'rank', rank)
        every = range(1, rank + 1) if ranks is None else ranks
        given = list(every) if isinstance(every, range) else every
        self_ranks = nested_ranks('DyLoRA', rank, given)
        super().__init__(
            weight, rank, alpha, rslora=rslora, dropout=dropout, path=path
        )
        self.sampled_ranks, self.root = self_ranks, rslora

    def squeezes(self) -> bool:
        return False

    def delta_weight(self) -> Tensor:
        """Return s_b B A of the components that count."""
        return Adapter.delta_weight(self)

    def low_rank(self) -> LowRank:
        """Return L = s_b B and R = A of the components that count."""
        rank = self.prefix or self.rank
        scale = self.alpha / (rank**0.5 if self.root else rank)
        with full_precision(self.up.device.type):
            return LowRank(scale * self.up[:, :rank], self.down[:rank])

    @classmethod
    def prefix_method(cls) -> type[LoRA]:
        return LoRA

    @classmethod
    def scaled_by_rank(cls, settings: Settings) -> bool:
        return True

    @classmethod
    def at_rank(
        cls, settings: Settings, rank: int, kernel_rank: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of the LoRA that a prefix is."""
        known = ('alpha', 'rslora')
        own = {name: cls.setting(settings, name) for name in known}
        return LoRA.at_rank(dict(own, rank=rank), rank, kernel_rank)
