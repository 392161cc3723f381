"""The algebra of updates: norms, angles, sums and truncation, layer by layer.

A Tucker update, or a product of two factors, is ΔW = G ×1 A1 … ×N AN.  Then
everything here is computed on cores and factors, which are small if the weight
is large.  An update without such a form is its own core, without factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .functional import mode_product, tucker_to_weight


@dataclass
class Update:
    """The update of one weight, in float64.

    Attributes:
        core: Shape ``(r_1, ..., r_N)``; the scale is part of it.
        factors: ``N`` matrices ``(d_n, r_n)``; none where the core is ΔW.
    """

    core: Tensor
    factors: tuple[Tensor, ...] = ()

    @classmethod
    def product(cls, left: Tensor, right: Tensor) -> 'Update':
        """Return ΔW = L R as an update of two modes: output, and all else.

        Args:
            left: Shape ``(out, rank)``.
            right: Shape ``(rank, in, *kernel)``.
        """
        core = torch.eye(left.shape[1], dtype=torch.float64)
        return cls(core, (left.double(), right.double().flatten(1).T))

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        if not self.factors:
            return tuple(self.core.shape)
        return tuple(len(factor) for factor in self.factors)

    def dense(self) -> Tensor:
        """Return ΔW."""
        if not self.factors:
            return self.core
        return tucker_to_weight(self.core, self.factors)

    def as_matrix(self) -> 'Update':
        """Return the update of a kernel as one of two modes."""
        if not self.factors:
            return Update(self.core.flatten(1))
        right = self.core
        for mode, factor in enumerate(self.factors[1:], start=1):
            right = mode_product(right, factor, mode)
        return Update.product(self.factors[0], right)

    def inner(self, other: 'Update') -> float:
        """Return the inner product ⟨ΔW, ΔW'⟩ with another update."""
        if not (self.factors and other.factors):
            return float((self.dense() * other.dense()).sum())
        projected = other.core
        for mode, (ours, theirs) in enumerate(
            zip(self.factors, other.factors, strict=True)
        ):
            projected = mode_product(projected, ours.T @ theirs, mode)
        return float((self.core * projected).sum())

    def norm(self) -> float:
        """Return the Frobenius norm ‖ΔW‖."""
        return float(self.orthonormal().core.norm())

    def angles(self, other: 'Update') -> tuple[float, ...]:
        """Return the mean principal angle of the factors' spans by mode.

        Returns:
            In degrees; nothing where one of the two has no factors.
        """
        if not (self.factors and other.factors):
            return ()
        return tuple(
            float(principal_angles(ours, theirs).mean())
            for ours, theirs in zip(self.factors, other.factors, strict=True)
        )

    def orthonormal(self) -> 'Update':
        """Return the same update with orthonormal factors."""
        core, factors = self.core, []
        for mode, factor in enumerate(self.factors):
            basis, triangle = torch.linalg.qr(factor)
            core = mode_product(core, triangle, mode)
            factors.append(basis)
        return Update(core, tuple(factors))

    def truncated(self, ranks: Sequence[int]) -> 'Update':
        """Return the update of lower ranks by HOSVD.

        It is the nearest one for matrices; for kernels it comes within a
        factor √N of the least distance.

        Args:
            ranks: The rank of each mode, at most its size.

        Returns:
            With orthonormal factors, so that the core has the update's norm.
        """
        small = self.orthonormal()
        bases = tuple(
            leading_basis(small.core.movedim(mode, 0).flatten(1), rank)
            for mode, rank in enumerate(ranks)
        )
        return small.projected(bases)

    def ordered(self) -> 'Update':
        """Return the same update with components in the order of energy.

        It is the whole HOSVD: factors are orthonormal, the core's slices of
        each mode are orthogonal to each other, and their norms descend.  So
        the leading block of the core is the update that :meth:`truncated`
        returns.
        """
        small = self.orthonormal()
        unfolded = [
            small.core.movedim(mode, 0).flatten(1)
            for mode in range(small.core.dim())
        ]
        return small.projected(
            [torch.linalg.svd(one, full_matrices=False).U for one in unfolded]
        )

    def projected(self, bases: Sequence[Tensor]) -> 'Update':
        """Return the core's projection onto the spans of given bases.

        Args:
            bases: Orthonormal, of the core's modes.
        """
        core = self.core
        for mode, basis in enumerate(bases):
            core = mode_product(core, basis.T, mode)
        if self.factors:
            pairs = zip(self.factors, bases, strict=True)
            return Update(core, tuple(a @ basis for a, basis in pairs))
        return Update(core, tuple(bases))


def leading_basis(matrix: Tensor, rank: int) -> Tensor:
    """Return an orthonormal basis of the leading left singular vectors.

    It comes from the Gram matrix of the smaller side, which takes seconds
    where a whole SVD of a large layer takes minutes.

    Args:
        matrix: Shape ``(d, m)``.
        rank: At most ``d``; beyond ``m`` the basis is completed at random.

    Returns:
        Shape ``(d, rank)``.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        vectors = torch.linalg.eigh(matrix @ matrix.T).eigenvectors
        return vectors.flip(1)[:, :rank]
    right = torch.linalg.eigh(matrix.T @ matrix).eigenvectors.flip(1)
    basis = torch.linalg.qr(matrix @ right[:, :rank]).Q
    if rank > columns:
        source = torch.Generator().manual_seed(0)
        more = torch.randn(
            rows, rank - columns, generator=source, dtype=matrix.dtype
        )
        more = more.to(matrix.device)
        basis = torch.linalg.qr(torch.cat([basis, more], 1)).Q
    return basis


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
    """Return an orthonormal basis of a span, of its own dimension."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    if not len(values) or values[0] == 0:
        return left[:, :0]
    least = values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return left[:, values > least]


def weighted_sum(
    updates: Sequence[Update], weights: Sequence[float]
) -> Update:
    """Return Σ w_i ΔW_i, exactly.

    Cores become the blocks of a block-diagonal one, factors stand side by
    side, so that ranks add up.  Where a mode's ranks exceed its size d, the
    factor is contracted into the core and becomes the identity of size d.
    Where an update has no factors, neither has the sum.

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
    pairs = list(zip(updates, weights, strict=True))
    if not all(update.factors for update in updates):
        dense = [weight * update.dense() for update, weight in pairs]
        return Update(torch.stack(dense).sum(0))
    core = torch.zeros([0] * len(shape), dtype=torch.float64)
    for update, weight in pairs:
        core = _block_diagonal(core, weight * update.core)
    factors = []
    for mode, size in enumerate(shape):
        factor = torch.cat([update.factors[mode] for update in updates], 1)
        if factor.shape[1] > size:
            core = mode_product(core, factor, mode)
            factor = torch.eye(size, dtype=torch.float64)
        factors.append(factor)
    return Update(core, tuple(factors))


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    sizes = zip(first.shape, second.shape, strict=True)
    whole = first.new_zeros([a + b for a, b in sizes])
    whole[tuple(slice(size) for size in first.shape)] = first
    whole[tuple(slice(size, None) for size in first.shape)] = second
    return whole
