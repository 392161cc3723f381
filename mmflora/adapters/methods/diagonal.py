"""SVFit and LoLDU: a trained diagonal between frozen factors of the weight."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..decompositions import leading_ldu, leading_svd
from ..layer_weights import frozen_weight
from ..lower_ranks import LowerRanks
from ..precision import full_precision
from ..settings import check_count, check_factor, check_iterations
from ..stored import Settings, Tensors


class DiagonalAdapter(LowerRanks, Adapter):
    """ΔW = L diag(v) R with frozen L and R, taken from the weight.

    L and R are saved with the adapter: another machine may find others.  A
    kernel counts as a matrix, ``(out, in / groups · kernel)``.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        **options: As for :class:`Adapter`.
    """

    left: Tensor
    right: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        self.rank = check_count(type(self).__name__, 'rank', rank)
        rows, columns = len(weight), math.prod(weight.shape[1:])
        own = min(rank, rows, columns)
        self.clipped = own != rank
        self.diagonal = self.parameter_like(weight, own)
        left = torch.empty_like(self.diagonal.data).new_empty(rows, own)
        self.register_buffer('left', left)
        self.register_buffer('right', left.new_empty(own, *weight.shape[1:]))

    def values(self) -> Tensor:
        """Return v."""
        return self.diagonal

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return L and R of a weight.

        Args:
            matrix: The weight, shape ``(out, in · kernel)``, in float32 at
                least.
        """
        raise NotImplementedError

    def follow(self, layer: nn.Module) -> None:
        self._begin(frozen_weight(layer))

    @torch.no_grad()
    def _begin(self, weight: Tensor) -> None:
        matrix = weight.detach().flatten(1).to(self.left.dtype)
        left, right = self.start(matrix)
        self.left.copy_(left)
        self.right.copy_(right.reshape(self.right.shape))
        nn.init.zeros_(self.diagonal)

    def low_rank(self) -> LowRank:
        """Return L diag(v) and R."""
        with full_precision(self.left.device.type):
            return LowRank(self.left * self.values(), self.right)

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        return len(tensors['left']), *tensors['right'].shape[1:]

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.diagonal

    def remark(self) -> str:
        own = len(self.diagonal)
        return f'rank clipped to {own}' if self.clipped else ''

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank)


@ADAPTERS.register_module()
class SVFit(DiagonalAdapter):
    """ΔW = U diag(σ − σ0) Vᵀ: the leading r singular values train.

    Sun et al., "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained
    Models Using Singular Values" (2024): W = U_r diag(σ) V_rᵀ + W_e, where σ
    alone trains.  What is trained here is σ − σ0, which has the same
    gradient, so that training starts at the frozen weight exactly and weight
    decay pulls towards it.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        iterations: See :class:`StartedLoRA`.
        **options: As for :class:`Adapter`.

    Raises:
        ValueError: If the rank is below 1 or no integer, or ``iterations``
            negative.

    Example:
        >>> adapter = dict(type='SVFit', rank=64)
    """

    linear: ClassVar[Mapping[str, float]] = {'diagonal': 0.0}
    fixed = ('left', 'right')
    paper = 'Sun et al., 2024, arXiv:2409.05926'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 64,
        iterations: int | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, rank, dropout, path)
        self.iterations = check_iterations('SVFit', iterations)
        self._begin(weight)

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the leading singular vectors."""
        u, _, vh = leading_svd(matrix, len(self.diagonal), self.iterations)
        return u, vh


@ADAPTERS.register_module()
class LoLDU(DiagonalAdapter):
    """ΔW = P L diag(γ z − s d) U: a diagonal z and its scale γ train.

    Shi et al., "LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition
    for Parameter-Efficient Fine-Tuning" (2024), with the authors' release: the
    weight is W = P L diag(d) U with triangular L and U, whose diagonals are
    one, and a permutation P; the first r columns of L, entries of d and rows
    of U count.  z starts at d, and γ at s = alpha / rank.  Trained is z − d.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        alpha: s = alpha / rank.  By default s = 1.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` is no number.
        ValueError: If the rank is below 1 or no integer, or ``alpha`` zero or
            not finite.

    Example:
        >>> adapter = dict(type='LoLDU', rank=64)
    """

    paper = 'Shi et al., 2024, arXiv:2410.13618'
    first: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int = 64,
        alpha: float | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, rank, dropout, path)
        wanted = float(rank) if alpha is None else alpha
        self.scale = check_factor('LoLDU', 'alpha', wanted) / rank
        self.factor = self.parameter_like(weight, 1)
        self.register_buffer('first', torch.empty_like(self.diagonal.data))
        self._begin(weight)

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return P L and U of r columns and rows, and keep d."""
        left, values, right = leading_ldu(matrix, len(self.diagonal))
        self.first.copy_(values)
        nn.init.constant_(self.factor, self.scale)
        return left, right

    def values(self) -> Tensor:
        """Return γ z − s d."""
        change = (self.factor - self.scale) * self.first
        return self.factor * self.diagonal + change

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield γ: at zero the start would be lost to W."""
        yield self.factor

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, scale=self.scale)
