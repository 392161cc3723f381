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


def polar_factor(matrix: Tensor) -> Tensor:
    """Return U Vᵀ of a matrix's decomposition U S Vᵀ.

    It is (M Mᵀ)^(-1/2) M, by the eigenvectors of the smaller of the two Gram
    matrices, which takes a fraction of the time of singular values, above all
    on a GPU.  Squares have half the digits: directions whose singular value
    is below √(n ε) of the largest, with n the smaller side, are left out.

    Args:
        matrix: Shape ``(out, in)``.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    least = torch.finfo(matrix.dtype).eps * len(wide) * squares[-1]
    inverse = torch.where(squares > least, squares, torch.inf).rsqrt()
    polar = (vectors * inverse) @ vectors.T @ wide
    return polar if wide is matrix else polar.T


def orthonormal_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return leading columns of Q and rows of R (OLoRA, section 3)."""
    q, r = torch.linalg.qr(matrix)
    return q[:, :rank], r[:rank]


def oriented_factors(
    matrix: Tensor,
    moment: Tensor,
    rank: int,
    scale: float,
    largest: bool,
) -> tuple[Tensor, Tensor]:
    """Return B, A with s B A components of a matrix, oriented by its inputs.

    With ``U S Vᵀ = W C`` it is ``B = U √S``, ``A = √S Vᵀ C⁻¹`` (CorDA, eq. 1
    to 4), of the largest or the smallest singular values, in float64.

    Args:
        matrix: W, shape ``(out, in)``.
        moment: C, the inputs' second moment, shape ``(in, in)``.
        rank: How many components.
        scale: The factor s.
        largest: Whether those of the largest singular values.
    """
    wide, inverse = damped_inverse(moment.double())
    u, s, vh = torch.linalg.svd(matrix.double() @ wide, full_matrices=False)
    chosen = slice(rank) if largest else slice(len(s) - rank, None)
    root = (s[chosen] / abs(scale)).sqrt()
    left = u[:, chosen] * math.copysign(1, scale) * root
    return left, root[:, None] * vh[chosen] @ inverse


def leading_directions(moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the directions in which vectors vary most, and their shares.

    They are the right singular vectors of a matrix X whose rows are the
    vectors: eigenvectors of E[x xᵀ], with eigenvalues σ² / n.  In float64.

    Args:
        moment: E[x xᵀ], shape ``(in, in)``.
        rank: How many.

    Returns:
        Vᵀ, shape ``(rank, in)``, and σ_j² / Σ σ², shape ``(rank,)``, both in
        falling order.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=0).flip(0)
    shares = values / (float(values.sum()) or 1.0)
    return vectors.T.flip(0)[:rank], shares[:rank]


def gradient_factors(
    gradient: Tensor, rank: int, gamma: float, iterations: int | None
) -> tuple[Tensor, Tensor]:
    """Return B and A along the leading singular vectors of a gradient.

    With ``U S Vᵀ`` of the gradient and ``c = out^¼ / √γ`` they are
    ``A = c V[1…r]ᵀ`` and ``B = c U[r+1…2r]`` (LoRA-GA, algorithm 1).  Where
    it has fewer than 2 r singular vectors, B has the last r.

    Args:
        gradient: Shape ``(out, in)``.
        rank: r, at most its smaller side.
        gamma: γ.
        iterations: See :func:`leading_svd`.
    """
    u, _, vh = leading_svd(gradient, 2 * rank, iterations)
    size = len(gradient) ** 0.25 / math.sqrt(gamma)
    return size * u[:, -rank:], size * vh[:rank]


def damped_inverse(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return a second moment with a raised diagonal, and its inverse.

    The diagonal is raised by a share of its mean, 1 % first, twice as much as
    long as the product of the two differs from the identity.

    Args:
        moment: Shape ``(in, in)``.
    """
    unit = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    mean, share = float(moment.diagonal().mean()) or 1.0, 0.01
    while True:
        raised = moment + share * mean * unit
        inverse = torch.linalg.inv(raised)
        if float((raised @ inverse - unit).norm()) < 0.05:
            return raised, inverse
        share *= 2


def leading_ldu(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading part of W = P L D U (LoLDU, section III).

    L and U are triangular with a diagonal of ones; where an entry of D is
    zero, its row of U stays as it is.

    Args:
        matrix: W, shape ``(out, in)``.
        rank: How many columns, entries and rows.

    Returns:
        P L, D and U of shapes ``(out, rank)``, ``(rank,)``, ``(rank, in)``.
    """
    permutation, lower, upper = torch.linalg.lu(matrix)
    values = upper.diagonal()[:rank]
    safe = torch.where(values == 0, torch.ones_like(values), values)
    return (
        (permutation @ lower)[:, :rank],
        values,
        upper[:rank] / safe[:, None],
    )
