"""Block-LoRA: several up-projections behind one down-projection."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..precision import full_precision
from ..settings import check_count, check_factor
from ..stored import Settings, Tensors


@ADAPTERS.register_module()
class BlockLoRA(Adapter):
    """ΔW = s (B_1 + … + B_n) A: n blocks of LoRA's B share one block A.

    Zhou et al., "One Head Eight Arms: Block Matrix based Low Rank Adaptation
    for CLIP-based Few-Shot Learning" (2025).  LoRA's product of rank r is cut
    along the rank, B A = Σ B_i A_i, and the blocks A_i are one: a sum of
    matrices takes the place of their products.  This is what the abstract
    says.  The B_i start at zero, A as Kaiming's uniform, as in LoRA.  So the
    B_i all get the same gradient: under the usual optimizers they stay equal,
    and the sum moves n times as fast as a single B would.

    A kernel has LoRA's spatial form: A is a kernel ``(r / n, in / groups,
    *kernel)``, and each B_i one of size 1.

    Args:
        weight: The frozen weight.
        rank: The rank r of all blocks together.
        blocks: n, a divisor of the rank.
        alpha: s = alpha / rank.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` is no number.
        ValueError: If a setting is out of its range, or ``blocks`` no divisor
            of the rank.

    Example:
        >>> adapter = dict(type='BlockLoRA', rank=16, blocks=4)
    """

    paper = 'Zhou et al., 2025, arXiv:2501.16720'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        blocks: int = 4,
        alpha: float = 16.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        self.rank = check_count('BlockLoRA', 'rank', rank)
        self.blocks = check_count('BlockLoRA', 'blocks', blocks)
        if rank % blocks:
            raise ValueError(
                f'BlockLoRA: `blocks` divides the rank, got rank={rank} and '
                f'blocks={blocks}.'
            )
        self.scale = check_factor('BlockLoRA', 'alpha', alpha) / rank
        out, *inputs = weight.shape
        inner = min(rank // blocks, out, math.prod(inputs))
        self.up = self.parameter_like(weight, blocks, out, inner)
        self.down = self.parameter_like(weight, inner, *inputs)
        nn.init.zeros_(self.up)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def low_rank(self) -> LowRank:
        """Return s Σ B_i and A."""
        with full_precision(self.up.device.type):
            return LowRank(self.scale * self.up.sum(0), self.down)

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        return tensors['up'].shape[1], *tensors['down'].shape[1:]

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.up

    def remark(self) -> str:
        inner = len(self.down)
        clipped = inner * self.blocks != self.rank
        return f'rank of a block clipped to {inner}' if clipped else ''

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, blocks=self.blocks, scale=self.scale)
