"""SoKA: Kronecker products that start at the weight's leading ones."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter
from ..decompositions import leading_svd
from ..kronecker import (
    kronecker_blocks,
    kronecker_sum,
    leading_count,
    nearest_divisor,
)
from ..layer_weights import frozen_weight
from ..precision import full_precision
from ..settings import check_count, check_iterations, check_share
from ..stored import Settings, Tensors


@ADAPTERS.register_module()
class SoKA(Adapter):
    """ΔW = Σ_k U_k ⊗ V_k − U0_k ⊗ V0_k, at first the weight's leading terms.

    Chong and Qu, "Singular Value Decomposition on Kronecker Adaptation for
    Large Language Model" (2025): the Kronecker-product SVD of the weight,
    W = Σ σ_k U_k ⊗ V_k, gives the start, with √σ_k in either factor; what is
    left of the weight stays frozen.  The rank is found by the spectrum's
    energy and elbow, see :func:`leading_count`.  Here ``rank`` bounds it and
    gives the factors their shapes, so that a checkpoint does not depend on
    the base's values: pairs beyond the rank found are zero, and stay so,
    since neither gets a gradient.

    The abstract leaves the sizes open.  U_k is m × n with the largest
    divisors of ``out`` and ``in`` that are at most their roots.  The kernel
    of a convolution lies in V_k as a whole.

    Args:
        weight: The frozen weight.
        rank: The largest number of terms.
        energy: The share of ‖W‖² that is enough, in (0, 1].
        iterations: See :class:`StartedLoRA`.
        **options: As for :class:`Adapter`.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> adapter = dict(type='SoKA', rank=16, energy=0.9)
    """

    paper = 'Chong and Qu, 2025, arXiv:2506.15251'
    start_left: Tensor
    start_right: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        energy: float = 0.9,
        iterations: int | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        self.rank = check_count('SoKA', 'rank', rank)
        self.energy = check_share('SoKA', 'energy', energy)
        self.iterations = check_iterations('SoKA', iterations)
        out, inputs, *kernel = weight.shape
        m, n = nearest_divisor(out), nearest_divisor(inputs)
        right = (out // m, inputs // n, *kernel)
        own = min(rank, m * n, math.prod(right))
        self.left = self.parameter_like(weight, own, m, n)
        self.right = self.parameter_like(weight, own, *right)
        self.register_buffer('start_left', torch.empty_like(self.left))
        self.register_buffer('start_right', torch.empty_like(self.right))
        self.kept = own
        self._begin(weight)

    def follow(self, layer: nn.Module) -> None:
        self._begin(frozen_weight(layer))

    @torch.no_grad()
    def _begin(self, weight: Tensor) -> None:
        """Take the leading terms of the weight."""
        own, sides = len(self.left), self.left.shape[1:]
        matrix = weight.detach().to(self.left.dtype)
        rows = kronecker_blocks(matrix, sides)
        u, s, vh = leading_svd(rows, own, self.iterations)
        if not matrix.is_meta:
            whole = float(matrix.double().square().sum())
            self.kept = leading_count(s, whole, self.energy)
        root = s.sqrt()
        root[self.kept :] = 0
        self.start_left.copy_((u * root).T.reshape(self.left.shape))
        self.start_right.copy_((root[:, None] * vh).reshape(self.right.shape))
        self.left.copy_(self.start_left)
        self.right.copy_(self.start_right)

    def delta_weight(self) -> Tensor:
        """Return Σ (U − U0) ⊗ V + U0 ⊗ (V − V0), exactly zero at first."""
        with full_precision(self.left.device.type):
            moved = self.left - self.start_left, self.right - self.start_right
            return kronecker_sum(
                torch.cat([moved[0], self.start_left]),
                torch.cat([self.right, moved[1]]),
            )

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        (_, m, n), (_, p, q, *kernel) = (
            tensors[side].shape for side in ('left', 'right')
        )
        return (m * p, n * q, *kernel)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield both factors: at zero the start would be lost to W."""
        yield from (self.left, self.right)

    def remark(self) -> str:
        if self.kept == self.rank:
            return ''
        return f'{self.kept} of {self.rank} terms are used'

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank)
