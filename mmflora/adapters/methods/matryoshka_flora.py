"""FLoRA with nested ranks, of which every prefix is a FLoRA."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmflora.registry import ADAPTERS

from ..sampled import SampledRanks, nested_ranks
from ..settings import check_choice, check_flag
from ..stored import Settings, Tensors
from .flora import FLoRA
from .matryoshka import nested_weights


@ADAPTERS.register_module()
class MatryoshkaFLoRA(SampledRanks, FLoRA):
    """FLoRA of which each prefix of the channel ranks is a FLoRA.

    MatryoshkaLoRA's idea in N modes, which no paper has: the update is the
    mean of the Tucker updates of several ranks r, each the leading block of
    the core with the leading columns of the two channel factors.  That is
    ΔW = s · (P ∘ G) ×1 A1 … ×N AN with the fixed weights
    ``P_ij = |{r ≥ max(i, j)}| / |{r}|``; the kernel's modes are whole.

    ``sampled`` draws one r for each iteration of the training instead, as
    :class:`DyLoRA` does, and has no P; with ``per_layer`` one for each layer,
    where 0, the frozen layer, may be one of the ranks.

    ``tools/adapters.py truncate --rank r`` makes a FLoRA of each prefix: the
    leading block of P ∘ G.

    Args:
        weight: The frozen weight.
        rank: The highest rank of the two channel modes, one number.
        kernel_rank: Rank of the kernel's modes.
        scale: The factor s.
        ranks: The ranks of the prefixes; by default powers of two, and
            ``rank``.
        sampled: See above.
        per_layer: See above; for ``sampled`` alone.
        start: ``'random'`` or ``'gradient'``, see :class:`FLoRA`.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number, or ``sampled`` or ``per_layer``
            no flag.
        ValueError: If a rank is no integer of at least 1, ``ranks`` lack the
            highest, ``scale`` is zero or not finite, or ``per_layer`` stands
            without ``sampled``.

    Example:
        >>> adapter = dict(type='MatryoshkaFLoRA', rank=16)
    """

    paper = "MatryoshkaLoRA's idea for FLoRA"

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        kernel_rank: int = 2,
        scale: float = 4.0,
        ranks: Sequence[int] | None = None,
        sampled: bool = False,
        dropout: float = 0.0,
        path: str = 'auto',
        start: str = 'random',
        per_layer: bool = False,
    ) -> None:
        kind = type(self).__name__
        alone = check_flag(kind, 'per_layer', per_layer)
        self_ranks = nested_ranks(kind, rank, ranks, least=int(not alone))
        check_choice(kind, 'start', start, ('random', 'gradient'))
        super().__init__(
            weight, rank, kernel_rank, scale, dropout, path, start
        )
        sampled = check_flag(kind, 'sampled', sampled)
        self.nested = self_ranks
        if alone and not sampled:
            raise ValueError(
                f'{kind}: per_layer=True draws ranks, and needs sampled=True.'
            )
        self.sampled_ranks = self_ranks if sampled else ()
        self.per_layer = alone

    def core_weights(self) -> Tensor:
        """Return P, with a size of 1 in the kernel's modes."""
        rows, columns, *kernel = self.core.shape
        share = [1 / len(self.nested)] * len(self.nested)
        own = nested_weights(self.nested, share, max(rows, columns))
        places = torch.arange(max(rows, columns), device=self.core.device)
        later = torch.maximum(places[:rows, None], places[:columns])
        weights = self.core.new_tensor(own)[later]
        return weights.view(rows, columns, *[1] * len(kernel))

    def _terms(self) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        factors = tuple(self.factors)
        if not self.sampled_ranks:
            return [(self.core_weights() * self.core, factors)]
        rank, share = self.counted(max(self.core.shape[:2]))
        channels = tuple(factor[:, :rank] for factor in factors[:2])
        return [(share * self.core[:rank, :rank], channels + factors[2:])]

    @classmethod
    def has_sums(cls) -> bool:
        return False

    @classmethod
    def prefix_method(cls) -> type[FLoRA]:
        return FLoRA

    @classmethod
    def at_rank(
        cls, settings: Settings, rank: int, kernel_rank: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of the FLoRA that a prefix is."""
        own = dict(scale=cls.setting(settings, 'scale'))
        return own | FLoRA.at_rank(
            {
                name: cls.setting(settings, name)
                for name in ('rank', 'kernel_rank')
            },
            rank,
            kernel_rank,
        )

    @classmethod
    def truncated(
        cls, tensors: Tensors, settings: Settings, lower: Settings
    ) -> dict[str, Tensor]:
        """Return the leading block of P ∘ G, and of the factors."""
        adapter = cls.restored(tensors, settings)
        core, factors = adapter._terms()[0]
        whole = dict(core=core.to(tensors['core'].dtype))
        whole |= {
            f'factors.{mode}': tensors[f'factors.{mode}']
            for mode in range(len(factors))
        }
        given = dict(lower, rank=cls.setting(settings, 'rank'))
        given['kernel_rank'] = cls.setting(settings, 'kernel_rank')
        return FLoRA.truncated(whole, given, lower)

    def meaning(self) -> dict[str, Any]:
        own = dict(sampled=True) if self.sampled_ranks else {}
        return {**super().meaning(), **own, 'nested': self.nested}
