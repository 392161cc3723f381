"""Sums of Kronecker products: pure functions of tensors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def nearest_divisor(size: int) -> int:
    """Return the largest divisor of a size that is at most its root."""
    return max(n for n in range(1, math.isqrt(size) + 1) if not size % n)


def kronecker_sum(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_k U_k ⊗ V_k, of a kernel for each of its positions.

    Args:
        left: U, shape ``(rank, m, n)``.
        right: V, shape ``(rank, p, q, *kernel)``.

    Returns:
        Shape ``(m p, n q, *kernel)``.
    """
    (_, m, n), (_, p, q, *kernel) = left.shape, right.shape
    flat = right.reshape(len(right), p, q, -1)
    product = torch.einsum('kmn,kpqx->mpnqx', left, flat)
    return product.reshape(m * p, n * q, *kernel)


def kronecker_blocks(weight: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the rearrangement in which U ⊗ V is an outer product.

    Row ``i n + j`` of it is the block of the weight at ``(i, j)`` (Van Loan
    and Pitsianis, 1993).

    Args:
        weight: Shape ``(m p, n q, *kernel)``.
        sides: m and n.

    Returns:
        Shape ``(m n, p q · kernel)``.
    """
    m, n = sides
    p, q = len(weight) // m, weight.shape[1] // n
    blocks = weight.reshape(m, p, n, q, -1).permute(0, 2, 1, 3, 4)
    return blocks.reshape(m * n, -1)


def leading_count(values: Tensor, whole: float, energy: float) -> int:
    """Return how many singular values matter, by energy and elbow.

    It is the smaller of two numbers (SoKA): of the values that hold a share
    of the whole energy, and of those down to the elbow, which is the value
    farthest below the line from the first to the last one.

    Args:
        values: The leading singular values, descending.
        whole: The sum of the squares of all.
        energy: The share of it that is enough.
    """
    squares = values.double().square().cumsum(0)
    enough = int((squares < energy * whole).sum()) + 1
    line = torch.linspace(0, 1, len(values), dtype=torch.float64)
    first, last = values[0].double().cpu(), values[-1].double().cpu()
    below = first + line * (last - first) - values.double().cpu()
    elbow = len(values)
    if float(below.max()) > 1e-6 * float(first):
        elbow = int(below.argmax()) + 1
    return min(enough, elbow, len(values))
