"""How large an update is, and what it amplifies, layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .layers import AdaptedLayer
from .precision import full_precision
from .updates import Update, leading_basis


@dataclass(frozen=True)
class UpdateStatistics:
    """The statistics of one layer's update ΔW of a frozen weight W.

    A kernel counts as the matrix of its output channels by all else,
    ``(out, in * height * width)``, in which a convolution multiplies patches.

    Attributes:
        norm: ‖ΔW‖F.
        relative: ‖ΔW‖F / ‖W‖F.
        amplification: ‖ΔW‖F / ‖Uᵀ W V‖F, where U and V are the ``rank``
            leading left and right singular vectors of ΔW (LoRA, Hu et al.,
            ICLR 2022, section 7.3; FLoRA, section 5.2); 0 if ΔW is zero.
        rank: The number of singular vectors that counted; at most the rank
            of ΔW.
        intruders: How many leading left singular vectors of W + ΔW have no
            counterpart in W, see :func:`intruder_dimensions`; None if they
            were not counted.
    """

    norm: float
    relative: float
    amplification: float
    rank: int
    intruders: int | None = None


@torch.no_grad()
def update_statistics(
    layer: AdaptedLayer, rank: int = 16, intruders: int = 0
) -> UpdateStatistics:
    """Return the statistics of an adapted layer.

    An update that is a product of factors is never computed in full; its own
    rank counts.  One that is not, or that changes the weight otherwise than
    by adding (DoRA, SSF), is, at the price of an eigendecomposition of the
    weight's smaller side.

    Args:
        layer: The layer.
        rank: The number of singular vectors where the adapter has no factors.
        intruders: How many leading singular vectors of W + ΔW to compare
            with those of W, at the price of two singular value
            decompositions; 0 to leave that out.
    """
    adapter, weight = layer.adapter, layer.base_weight()
    with full_precision(weight.device.type):
        if adapter.additive:
            update = adapter.update().as_matrix().orthonormal()
            rank = len(update.core) if update.factors else rank
        else:
            update = Update(layer.delta_weight().double().flatten(1))
            factors = adapter.low_rank()
            rank = rank if factors is None else factors.left.shape[1]
        left, values, right = leading_triplets(update, rank)
        wide = torch.promote_types(weight.dtype, torch.float32)
        matrix = weight.to(wide).flatten(1)
        seen = left.T @ (matrix @ right.to(wide)).double()
        norm, within = float(update.core.norm()), float(seen.norm())
        count = None
        if intruders:
            delta = layer.delta_weight().to(wide).flatten(1)
            count = intruder_dimensions(matrix, matrix + delta, intruders)
    whole = float(matrix.norm())
    return UpdateStatistics(
        norm,
        norm / whole if whole else float('inf'),
        _ratio(norm, within),
        len(values),
        count,
    )


def leading_triplets(
    update: Update, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values of a matrix update.

    Args:
        update: Of two modes, ``(out, in)``; its factors are orthonormal.
        rank: How many; fewer are returned where the update has fewer that
            differ from zero.

    Returns:
        U ``(out, r)``, the values ``(r,)`` in descending order, and V
        ``(in, r)``, all in float64.
    """
    if update.factors:
        left, values, right = torch.linalg.svd(
            update.core, full_matrices=False
        )
        left, right = update.factors[0] @ left, update.factors[1] @ right.T
    else:
        rank = min(rank, *update.shape)
        basis = leading_basis(update.core, rank)
        turn, values, right = torch.linalg.svd(
            basis.T @ update.core, full_matrices=False
        )
        left, right = basis @ turn, right.T
    size = max(update.shape) * torch.finfo(torch.float64).eps
    count = int((values > values.max() * size).sum()) if len(values) else 0
    count = min(count, rank)
    return left[:, :count], values[:count], right[:, :count]


def intruder_dimensions(
    frozen: Tensor, adapted: Tensor, leading: int = 10, threshold: float = 0.5
) -> int:
    """Count singular vectors of an adapted weight without a counterpart.

    One of the ``leading`` left singular vectors of W + ΔW is an intruder if
    its cosine with every left singular vector of W is below ``threshold``
    (Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of
    Equivalence", 2024, definition 3.1).

    Args:
        frozen: W, shape ``(out, in)``.
        adapted: W + ΔW.
        leading: How many vectors of W + ΔW to look at.
        threshold: The least cosine of a counterpart.
    """
    before = torch.linalg.svd(frozen, full_matrices=False).U
    after = torch.linalg.svd(adapted, full_matrices=False).U[:, :leading]
    cosines = (after.T @ before).abs().amax(1)
    return int((cosines < threshold).sum())


def _ratio(norm: float, within: float) -> float:
    if norm == 0:
        return 0.0
    return norm / within if within else float('inf')
