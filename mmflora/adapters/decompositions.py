"""The formulas of starts: what an adapter takes of a frozen weight.

Pure functions of tensors, as those in ``functional.py``.
"""

import math

import torch
from torch import Tensor


def leading_svd(
    matrix: Tensor, rank: int, iterations: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values of a matrix.

    Args:
        matrix: Shape ``(out, in)``.
        rank: How many.
        iterations: Of the subspace iteration (Halko et al., 2011), with a
            subspace of twice the rank; ``None`` for the whole decomposition.

    Returns:
        U, S and Vᵀ of shapes ``(out, rank)``, ``(rank,)``, ``(rank, in)``.
    """
    if iterations is None:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vh[:rank]
    width = min(2 * rank, *matrix.shape)
    u, s, v = torch.svd_lowrank(matrix, q=width, niter=iterations)
    return u[:, :rank], s[:rank], v.T[:rank]


def best_factors(
    matrix: Tensor, rank: int, scale: float, iterations: int | None
) -> tuple[Tensor, Tensor]:
    """Return B, A with s B A the best approximation of a matrix.

    ``±U √(S / |s|)`` and ``√(S / |s|) Vᵀ``, with the sign of s (PiSSA, eq. 2
    and 3).

    The other arguments are those of :func:`leading_svd`.
    """
    u, s, vh = leading_svd(matrix, rank, iterations)
    root = (s / abs(scale)).sqrt()
    return u * math.copysign(1, scale) * root, root[:, None] * vh


def orthonormal_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return leading columns of Q and rows of R (OLoRA, section 3)."""
    q, r = torch.linalg.qr(matrix)
    return q[:, :rank], r[:rank]
