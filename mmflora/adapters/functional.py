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


def low_rank_to_weight(left: Tensor, right: Tensor) -> Tensor:
    """Multiply two factors into a weight, W = L R.

    Args:
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in, *kernel)``: for a convolution a kernel of
            ``rank`` channels, behind which ``left`` is one of size 1.

    Returns:
        Shape ``(out, in, *kernel)``.
    """
    product = left @ right.flatten(1)
    return product.view(len(left), *right.shape[1:])


def fold(
    weight: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return W + L R, added in the wider type, in another.

    Args:
        weight: W, shape ``(out, in, *kernel)``.
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in, *kernel)``.
        dtype: The type of the sum.
    """
    wide = torch.promote_types(weight.dtype, left.dtype)
    matrix = weight.flatten(1) if weight.dim() > 2 else weight
    whole = torch.addmm(
        matrix.to(wide), left.to(wide), right.flatten(1).to(wide)
    )
    return whole.to(dtype).view(weight.shape)


def channel_norms(weight: Tensor, view: Sequence[int]) -> Tensor:
    """Return the norm of each output channel's weights.

    Args:
        weight: The weight.
        view: The weight's shape with the output channels in the dimensions 0
            and 2, see :func:`channel_view`.

    Returns:
        Shape ``(channels,)``.
    """
    norms: Tensor = torch.linalg.vector_norm(weight.reshape(view), dim=(1, 3))
    return norms.flatten()


def scale_channels(
    weight: Tensor, scale: Tensor, view: Sequence[int]
) -> Tensor:
    """Multiply the weights of each output channel by its scale.

    Args:
        weight: The weight.
        scale: Shape ``(channels,)``.
        view: As for :func:`channel_norms`.
    """
    factor = scale.view(view[0], 1, view[2], 1)
    return (weight.reshape(view) * factor).view(weight.shape)


def low_rank_norms(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the norm of each row of W + L R without building the sum.

    ``‖w + l R‖² = ‖w‖² + 2 l·(R w) + l (R Rᵀ) lᵀ`` for each row w of W and l
    of L: besides W itself, no tensor of the weight's size exists.

    Args:
        weight: W, shape ``(out, in, *kernel)``.
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in, *kernel)``.

    Returns:
        Shape ``(out,)``.
    """
    rows, span = weight.flatten(1), right.flatten(1)
    own = channel_norms(weight, (*rows.shape, 1, 1)).square()
    cross = ((rows @ span.T) * left).sum(1)
    added = ((left @ (span @ span.T)) * left).sum(1)
    return (own + 2 * cross + added).clamp_min(0).sqrt()
