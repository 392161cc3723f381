"""The formulas of the adapters: pure functions of tensors.

Each formula of an update stands in this file and nowhere else; those of
starts, which take a weight apart, stand in ``decompositions.py``.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
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


def tucker_to_low_rank(
    core: Tensor, factors: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return a Tucker product as two factors, W = L R.

    L is the first factor, R the product of the core and the others.  For a
    matrix whose inner rank is the smaller one, the core goes into L.

    The arguments are those of :func:`tucker_to_weight`; the results have the
    shapes ``(d_1, rank)`` and ``(rank, d_2, ..., d_N)``.
    """
    first, *others = factors
    if len(others) == 1 and core.shape[1] < core.shape[0]:
        return first @ core, others[0].T
    right = core
    for mode in reversed(range(1, core.dim())):
        right = mode_product(right, factors[mode], mode)
    return first, right


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


def relative_scale(magnitude: Tensor, norms: Tensor) -> Tensor:
    """Return m / ‖·‖ by channel (DoRA, eq. 5); a channel of zeros stays one.

    Both have the shape ``(channels,)``.
    """
    tiny = 1e-30 if norms.dtype.itemsize > 2 else 1e-7
    return magnitude.to(norms.dtype) / norms.clamp_min(tiny)


def scale_and_shift(
    vector: Tensor, scale: Tensor, shift: Tensor | None
) -> Tensor:
    """Return γ ⊙ b + β (SSF, eq. 4), in the type of b."""
    scaled = vector * scale
    if shift is not None:
        scaled = scaled + shift
    return scaled.to(vector.dtype)


def scale_output(
    output: Tensor, scale: Tensor | None, bias: Tensor | None, dim: int
) -> Tensor:
    """Scale a layer's output channels and add its bias.

    The scale is not rounded to the output's type, in which small changes of
    it would be lost.

    Args:
        output: The output without bias; with it where nothing is scaled.
        scale: Shape ``(out,)`` or ``None``, as that of ``bias``.
        bias: Added to what is scaled.
        dim: The dimension of the channels, from the end.
    """
    if scale is None:
        return output
    shape = (-1,) + (1,) * (-1 - dim)
    scaled = output * scale.view(shape)
    if bias is not None:
        scaled = scaled + bias.view(shape)
    return scaled.to(output.dtype)


def channel_view(
    shape: Sequence[int], transposed_groups: int = 0
) -> tuple[int, int, int, int]:
    """Return a weight's shape with its output channels in two dimensions.

    Args:
        shape: The weight's shape: ``(out, ...)``, or for a transposed
            convolution ``(in, out / groups, *kernel)``.
        transposed_groups: The groups of a transposed convolution, 0 for any
            other layer.

    Returns:
        Four sizes; those at 0 and 2 are the output channels, in their order.
    """
    groups = transposed_groups
    if not groups:
        return shape[0], math.prod(shape[1:]), 1, 1
    return groups, shape[0] // groups, shape[1], math.prod(shape[2:])


def moved_factors(
    left: Tensor, right: Tensor, left_start: Tensor, right_start: Tensor
) -> tuple[Tensor, Tensor]:
    """Return L R − L0 R0 as two factors of twice the rank.

    They are ``[L − L0, L0]`` and ``[R; R − R0]``: at the start an exact zero,
    and no difference of large products later.
    """
    return (
        torch.cat([left - left_start, left_start], 1),
        torch.cat([right, right - right_start]),
    )


def bottleneck(
    x: Tensor,
    down: tuple[Tensor, Tensor],
    up: tuple[Tensor, Tensor],
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return act(x Dᵀ + d) Uᵀ + u (Houlsby et al., 2019, section 2).

    Args:
        x: Shape ``(..., channels)``.
        down: D, shape ``(width, channels)``, and d.
        up: U, shape ``(channels, width)``, and u.
        activation: Of the hidden values.
    """
    return F.linear(activation(F.linear(x, *down)), *up)


def pieces_to_low_rank(
    cores: Tensor, left: Tensor, right: Tensor, kernel: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return a weight whose pieces share their factors as a product, W = L R.

    The weight is cut into p × q blocks and, of a kernel, into its k
    positions; each piece is V Σ Uᵀ with a core Σ of its own (FacT, section
    3.2: "FacT-TT"; LoTR, equation 5).

    Args:
        cores: Shape ``(p, q, k, a, b)``.
        left: V, shape ``(out / p, a)``.
        right: U, shape ``(in / q, b)``.
        kernel: The kernel's shape, of k entries.

    Returns:
        Shapes ``(out, rank)`` and ``(rank, in, *kernel)``; the rank is ``b``
        where each row of blocks is one piece, else ``p a``.
    """
    rows, columns, positions = cores.shape[:3]
    if columns * positions == 1:
        whole = (left @ cores[:, 0, 0]).flatten(0, 1)
        return whole, right.T.reshape(-1, len(right), *kernel)
    spread = torch.einsum('pqkab,ib->paqik', cores, right)
    blocks = torch.block_diag(*[left] * rows) if rows > 1 else left
    size = (rows * cores.shape[3], columns * len(right), *kernel)
    return blocks, spread.reshape(size)
