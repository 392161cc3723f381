"""LoRA-XS and LoRA-SB: a small core between frozen singular vectors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..calibrated import CalibratedAdapter
from ..decompositions import leading_svd
from ..layer_weights import frozen_weight
from ..lower_ranks import LowerRanks
from ..precision import full_precision
from ..settings import check_count, check_factor, check_iterations
from ..stored import Settings, Tensors


@ADAPTERS.register_module()
class LoRAXS(LowerRanks, Adapter):
    """ΔW = s · U S R Vᵀ: an r × r core R trains, all else is frozen.

    Bałazy et al., "LoRA-XS: Low-Rank Adaptation with Extremely Small Number
    of Parameters" (2024), equation 1; U, S and V are the leading singular
    vectors and values of the weight, for a convolution flattened to
    ``(out, in / groups · kernel)``.  They are saved with the adapter: another
    machine may find others.  The core starts at zero, not nearly.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        alpha: s = alpha / rank.
        iterations: See :class:`StartedLoRA`.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` is no number.
        ValueError: If the rank is below 1 or no integer, ``alpha`` is zero or
            not finite, or ``iterations`` negative.

    Example:
        >>> adapter = dict(type='LoRAXS', rank=64)
    """

    linear: ClassVar[Mapping[str, float]] = {'core': 0.0}
    fixed: ClassVar[tuple[str, ...]] = ('left', 'right')
    paper = 'Bałazy et al., 2024, arXiv:2405.17604'
    left: Tensor
    right: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int = 64,
        alpha: float = 16.0,
        iterations: int | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        kind = type(self).__name__
        self.rank = check_count(kind, 'rank', rank)
        self.scale = check_factor(kind, 'alpha', alpha) / rank
        self.iterations = check_iterations(kind, iterations)
        rows, columns = len(weight), math.prod(weight.shape[1:])
        own = min(rank, rows, columns)
        self.clipped = own != rank
        self.core = self.parameter_like(weight, own, own)
        dtype = self.core.dtype
        left = torch.empty(rows, own, dtype=dtype, device=weight.device)
        right = left.new_empty(own, *weight.shape[1:])
        self.register_buffer('left', left)
        self.register_buffer('right', right)
        self._begin(weight)

    @torch.no_grad()
    def _begin(self, weight: Tensor) -> None:
        matrix = weight.detach().flatten(1).to(self.core.dtype)
        u, s, vh = leading_svd(matrix, len(self.core), self.iterations)
        self.left.copy_(u * s)
        self.right.copy_(vh.reshape(self.right.shape))
        nn.init.zeros_(self.core)

    def follow(self, layer: nn.Module) -> None:
        self._begin(frozen_weight(layer))

    def low_rank(self) -> LowRank:
        """Return L = s U S R and Vᵀ."""
        with full_precision(self.core.device.type):
            return LowRank(self.left @ (self.scale * self.core), self.right)

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        return len(tensors['left']), *tensors['right'].shape[1:]

    @classmethod
    def summed_settings(cls, settings: Sequence[Settings]) -> dict[str, Any]:
        """Change nothing: cores add up, over the same singular vectors."""
        ranks = {cls.setting(one, 'rank') for one in settings}
        if len(ranks) != 1:
            raise ValueError(
                f'The adapters have the ranks {sorted(ranks)}: sums of LoRAXS '
                'need one rank, as they keep its frozen singular vectors.'
            )
        return {}

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.core

    def remark(self) -> str:
        return f'rank clipped to {len(self.core)}' if self.clipped else ''

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, scale=self.scale)


@ADAPTERS.register_module()
class LoRASB(CalibratedAdapter, LoRAXS):
    """ΔW = B R A: LoRA-XS around the singular vectors of the first step.

    Ponkshe et al., "Initialization using Update Approximation is a Silver
    Bullet for Extremely Efficient Low-Rank Fine-Tuning" (2024), algorithm 1:
    the first step of full fine-tuning by Adam, −η sign(ḡ) with the averaged
    gradient ḡ of the weight, has the singular value decomposition U S Vᵀ.
    B and A are its leading r singular vectors and stay frozen; R starts at
    their singular values and trains.  So the start is not the frozen layer,
    but the best approximation of that step; with orthonormal B and A the
    paper's scale is 1.  Kernels are flattened as by :class:`LoRAXS`.

    It needs ``calibration`` beside ``adapter``.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        step: The paper's η, the learning rate of that first step.
        iterations: See :class:`StartedLoRA`.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``step`` is no number.
        ValueError: If the rank is below 1 or no integer, ``step`` is zero or
            not finite, or ``iterations`` negative.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='LoRASB', rank=64),
        ...     calibration=dict(batches=8),
        ... )
    """

    fixed = ('left', 'right', 'calibrated')
    paper = 'Ponkshe et al., 2024, arXiv:2411.19557'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 64,
        step: float = 1e-4,
        iterations: int | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        check_count('LoRASB', 'rank', rank)
        super().__init__(weight, rank, rank, iterations, dropout, path)
        self.step = check_factor('LoRASB', 'step', step)
        self.ask_for('gradient', weight)

    def _begin(self, weight: Tensor) -> None:
        for tensor in (self.left, self.core, self.right):
            nn.init.zeros_(tensor)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Decompose the step that a gradient makes."""
        matrix = -self.step * statistic.sign().flatten(1).to(self.core.dtype)
        u, s, vh = leading_svd(matrix, len(self.core), self.iterations)
        self.left.copy_(u)
        self.right.copy_(vh.reshape(self.right.shape))
        self.core.copy_(s.diag() / self.scale)
