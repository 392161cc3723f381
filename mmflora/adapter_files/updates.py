"""Updates as cores and factors: norms, angles and sums without ΔW.

A Tucker update s · G ×1 A1 … ×N AN is small where its weight is large, so
all here is computed on cores and factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmflora.adapters.functional import mode_product, tucker_to_weight


@dataclass
class TuckerUpdate:
    """ΔW = core ×1 A1 … ×N AN; the scale is part of the core.

    Attributes:
        core: Shape ``(r_1, ..., r_N)``, float64.
        factors: ``N`` matrices ``(d_n, r_n)``, float64.
    """

    core: Tensor
    factors: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(len(factor) for factor in self.factors)

    def dense(self) -> Tensor:
        """Return ΔW."""
        return tucker_to_weight(self.core, self.factors)

    def inner(self, other: 'TuckerUpdate') -> float:
        """Return the inner product ⟨ΔW, ΔW'⟩ with another update."""
        projected = other.core
        for mode, (ours, theirs) in enumerate(
            zip(self.factors, other.factors, strict=True)
        ):
            projected = mode_product(projected, ours.T @ theirs, mode)
        return float((self.core * projected).sum())

    def norm(self) -> float:
        """Return the Frobenius norm ‖ΔW‖."""
        core = self.core
        for mode, factor in enumerate(self.factors):
            core = mode_product(core, torch.linalg.qr(factor).R, mode)
        return float(core.norm())


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Return the principal angles between the spans of two matrices.

    Args:
        first: Shape ``(d, r)``.
        second: Shape ``(d, r')``.

    Returns:
        ``min(r, r')`` angles in degrees, ascending; 0 where the spans meet,
        90 where they are orthogonal.
    """
    bases = [_orthonormal(matrix.double()) for matrix in (first, second)]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
    return torch.rad2deg(torch.arccos(cosines.clamp(max=1.0)))


def _orthonormal(matrix: Tensor) -> Tensor:
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    if not len(values) or values[0] == 0:
        return left[:, :0]
    kept = (
        values > values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    )
    return left[:, kept]


def weighted_sum(
    updates: Sequence[TuckerUpdate], weights: Sequence[float]
) -> TuckerUpdate:
    """Return Σ w_i ΔW_i as one Tucker update, exactly.

    Cores become the blocks of a block-diagonal one, factors stand side by
    side, so that ranks add up.  Where a mode's ranks exceed its size d, the
    factor is contracted into the core and becomes the identity of size d.

    Args:
        updates: Of one weight.
        weights: One factor w_i each.

    Returns:
        An update of the rank ``min(Σ r_i, d)`` in each mode.

    Raises:
        ValueError: If the updates are of weights of different shapes.
    """
    shapes = {update.shape for update in updates}
    if len(shapes) != 1:
        raise ValueError(
            f'Updates of weights of shapes {sorted(shapes)} have no sum: '
            'add adapters of one architecture.'
        )
    (shape,) = shapes
    ranks = [
        sum(update.core.shape[mode] for update in updates)
        for mode in range(len(shape))
    ]
    core = torch.zeros(ranks, dtype=torch.float64)
    start = [0] * len(shape)
    for update, weight in zip(updates, weights, strict=True):
        block = tuple(
            slice(begin, begin + size)
            for begin, size in zip(start, update.core.shape, strict=True)
        )
        core[block] = weight * update.core
        start = [part.stop for part in block]
    factors = []
    for mode, size in enumerate(shape):
        factor = torch.cat([update.factors[mode] for update in updates], 1)
        if factor.shape[1] > size:
            core = mode_product(core, factor, mode)
            factor = torch.eye(size, dtype=torch.float64)
        factors.append(factor)
    return TuckerUpdate(core, tuple(factors))
