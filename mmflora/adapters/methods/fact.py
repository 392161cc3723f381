"""FacT and LoTR: the weights of all layers as one tensor of low rank.

Both hold two factors for all layers, and a small core for each.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import LowRank
from ..functional import pieces_to_low_rank
from ..precision import full_precision
from ..settings import check_choice, check_count, check_factor
from ..shared import SharingAdapter

FORMS = ('tt', 'tk')


class SharedFactors(nn.Module):
    """The factors of all layers, by the sizes that they have.

    Args:
        adapters: The adapters of all layers.
    """

    def __init__(self, adapters: Sequence['FacT']) -> None:
        super().__init__()
        self.left, self.right = nn.ParameterDict(), nn.ParameterDict()
        for adapter in adapters:
            sides = zip(adapter.sides, adapter.ranks, strict=True)
            for factors, (side, rank) in zip(
                (self.left, self.right), sides, strict=True
            ):
                if str(side) not in factors:
                    factor = adapter.parameter_like(adapter.core, side, rank)
                    nn.init.uniform_(factor, -(side**-0.5), side**-0.5)
                    factors[str(side)] = factor


@ADAPTERS.register_module()
class FacT(SharingAdapter):
    """ΔW = s · V Σ Uᵀ with V and U for all layers, and a core Σ for each.

    Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision
    Transformer" (AAAI 2023), section 3.2, with the start of the authors'
    release: V at zero, the rest random.  The forms:

    - ``'tt'``: Σ is the layer's own, r × r (a tensor train);
    - ``'tk'``: Σ = Σ_c P_c C_c with a core C, r × r × r, for all layers and r
      numbers P for each (Tucker).

    As in the paper, a weight is cut into squares if one side is a multiple of
    the other: those of a ViT are 12 pieces of one size in each block.  Of a
    kernel each position is a piece too.  Weights that are no such multiple
    stay whole, and so do those (of depthwise kernels, say) whose squares
    would be no larger than the rank.  Factors are shared by the layers in
    which a side has the same length; ranks are clipped to it.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        form: ``'tt'`` or ``'tk'``.
        scale: The paper's s.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If the rank is below 1 or no integer, ``scale`` is zero or
            not finite, or the form unknown.

    Example:
        >>> adapter = dict(type='FacT', rank=16, form='tk')
    """

    paper = 'Jie and Deng, 2023, arXiv:2212.03145'
    squares = True

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        form: str = 'tt',
        scale: float = 1.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        kind = type(self).__name__
        self.rank = check_count(kind, 'rank', rank)
        self.form = check_choice(kind, 'form', form, FORMS)
        self.scale = check_factor(kind, 'scale', scale)
        self.kernel = tuple(weight.shape[2:])
        out, inputs = weight.shape[:2]
        side = min(out, inputs)
        cut = self.squares and side > rank and not max(out, inputs) % side
        self.sides = (side, side) if cut else (out, inputs)
        self.ranks = tuple(min(rank, one) for one in self.sides)
        pieces = (
            out // self.sides[0],
            inputs // self.sides[1],
            math.prod(self.kernel),
        )
        own = self.ranks if form == 'tt' else (rank,)
        self.core = self.parameter_like(weight, *pieces, *own)

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        """Return the factors of all layers; the left ones start at zero."""
        shared, first = SharedFactors(adapters), adapters[0]
        for factor in shared.left.values():
            nn.init.zeros_(factor)
        rank = first.rank
        if first.form == 'tk':
            core = first.parameter_like(first.core, rank, rank, rank)
            shared.core = nn.init.xavier_uniform_(core)
        numbers = sum(adapter.core[..., 0].numel() for adapter in adapters)
        bound = (
            (6 / (numbers + rank)) ** 0.5  # Xavier's of all P as one matrix
            if first.form == 'tk'
            else rank**-0.5
        )
        for adapter in adapters:
            nn.init.uniform_(adapter.core, -bound, bound)
        return shared

    def low_rank(self) -> LowRank:
        """Return the update as two factors, see ``pieces_to_low_rank``."""
        with full_precision(self.core.device.type):
            cores: Tensor = self.core
            rows, columns = self.ranks
            if self.form == 'tk':
                core = self.shared.core[:, :rows, :columns]
                cores = torch.einsum('...c,cab->...ab', cores, core)
            left, right = (
                factors[str(side)]
                for factors, side in zip(
                    (self.shared.left, self.shared.right),
                    self.sides,
                    strict=True,
                )
            )
            return LowRank(
                *pieces_to_low_rank(
                    self.scale * cores, left, right, self.kernel
                )
            )

    def core_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what starts at zero: the shared left factors."""
        yield from self.shared.left.values()

    def remark(self) -> str:
        clipped = self.ranks != (self.rank, self.rank)
        return f'ranks clipped to {self.ranks}' if clipped else ''

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, form=self.form, scale=self.scale)


@ADAPTERS.register_module()
class LoTR(FacT):
    """ΔW = s · A G Bᵀ with A and B for all layers, and a core G for each.

    Bershatsky et al., "LoTR: Low Tensor Rank Weight Adaptation" (2024),
    equation 5; G starts at zero, A and B as Gaussians.  Weights stay whole;
    layers share a factor if the side has the same length.  Of a kernel each
    position has a core of its own.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        scale: The factor s.
        **options: As for :class:`Adapter`.

    Example:
        >>> adapter = dict(type='LoTR', rank=16)
    """

    paper = 'Bershatsky et al., 2024, arXiv:2402.01376'
    squares = False

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        scale: float = 1.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, rank, scale=scale, dropout=dropout, path=path)

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        """Return the factors of all layers; each core starts at zero."""
        shared = SharedFactors(adapters)
        for factor in shared.parameters():
            nn.init.normal_(factor, std=len(factor) ** -0.5)
        for adapter in adapters:
            nn.init.zeros_(adapter.core)
        return shared

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.core

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, scale=self.scale)
