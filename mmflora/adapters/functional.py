"""The formulas of the adapters: pure functions of tensors.

Each formula of mmflora stands in this file and nowhere else.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def mode_product(tensor: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Multiply a tensor by a matrix along one mode, T ×_mode M.

    Args:
        tensor: Shape ``(..., r, ...)`` with ``r`` at position ``mode``.
        matrix: Shape ``(d, r)``.
        mode: The mode to contract.

    Returns:
        The shape of ``tensor`` with ``d`` in place of ``r``.
    """
    contracted = torch.tensordot(matrix, tensor, dims=([1], [mode]))
    return contracted.movedim(0, mode)


def tucker_to_weight(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Contract a Tucker core with one factor per mode of the weight.

    ``W[d1, ..., dN] = Σ core[r1, ..., rN] · Π_n factors[n][dn, rn]``
    (FLoRA, eq. 4; eq. 5 is its case N = 4, eq. 6 its case N = 2).

    The last modes are contracted first: for a convolution these are the
    kernel's, which are small, so that the intermediate results stay small
    until the two channel modes are reached.

    Args:
        core: Shape ``(r_1, ..., r_N)``.
        factors: ``N`` matrices; the ``n``-th has shape ``(d_n, r_n)``.

    Returns:
        Shape ``(d_1, ..., d_N)``; for a convolution
        ``(out, in // groups, *kernel)``, for a linear layer ``(out, in)``.

    Raises:
        ValueError: If the factors do not fit the core.
    """
    ranks = [factor.shape[-1] for factor in factors]
    if list(core.shape) != ranks:
        raise ValueError(
            f'A core of shape {tuple(core.shape)} needs one factor (d, r) per '
            f'mode with r = {tuple(core.shape)}, but the factors have '
            f'r = {tuple(ranks)}.'
        )
    weight = core
    for mode in reversed(range(len(factors))):
        weight = mode_product(weight, factors[mode], mode)
    return weight
