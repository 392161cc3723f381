"""The formulas of updates in bases of their own: pure functions of tensors."""

import math

import torch
from torch import Tensor


def cosine_rows(places: Tensor, size: int) -> Tensor:
    """Return rows of the orthonormal cosine transform, at learnt places.

    The row of frequency k is c_k[i] = √(2 / size) cos(π (i + ½) k / size),
    that of 0 is √(1 / size).  A place l in [0, 1] stands for the frequency
    next to l (size − 1).  Its gradient is that of the central difference
    (c_{k+1} − c_{k−1}) / 2, with the first and the last frequency as its ends
    (LoCA, section 4.3).

    Args:
        places: Shape ``(n,)``; beyond [0, 0.999] they have no gradient.
        size: The length of a row.

    Returns:
        Shape ``(n, size)``.
    """
    wanted = places.clamp(0, 0.999) * (size - 1)
    nearest = wanted.detach().round()
    below = _cosines((nearest - 1).clamp(min=0), size)
    above = _cosines((nearest + 1).clamp(max=size - 1), size)
    moved = (wanted - wanted.detach())[:, None]  # zero, but for its gradient
    return _cosines(nearest, size) + moved * (above - below) / 2


def _cosines(frequencies: Tensor, size: int) -> Tensor:
    spots = torch.arange(size, device=frequencies.device)
    # Whole numbers, so that the angle is exact for long rows.
    steps = (2 * spots + 1) * frequencies.long()[:, None] % (4 * size)
    angles = steps.to(frequencies.dtype) * (math.pi / (2 * size))
    usual = torch.full_like(frequencies, (size / 2) ** -0.5)
    scale = usual.masked_fill(frequencies == 0, size**-0.5)
    return scale[:, None] * angles.cos()


def distance_kernel(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_h (−1)^h ‖b_hi − a_hj‖ for each pair of rows.

    Args:
        left: b, shape ``(2, out, half)``.
        right: a, shape ``(2, columns, half)``.

    Returns:
        Shape ``(out, columns)``.
    """
    first, second = torch.cdist(left, right)
    return first - second


def surviving(matrix: Tensor, sparsity: float) -> Tensor:
    """Return w |w| for the entries that survive the competition, else 0.

    Those survive whose size is above that of the given share of all entries;
    |w| is a constant to the gradient (SNELL, with the authors' release).

    Args:
        matrix: Of any shape.
        sparsity: The share of the entries that do not survive, in [0, 1].
    """
    sizes = matrix.detach().abs()
    if sparsity >= 1 or sizes.is_meta:
        return matrix * sizes * float(sparsity < 1)
    if sparsity <= 0:
        return matrix * sizes
    rank = 1 + int(sparsity * (sizes.numel() - 1))
    least = sizes.flatten().kthvalue(rank).values
    return matrix * torch.where(sizes > least, sizes, 0)


def spread(values: Tensor, size: int) -> Tensor:
    """Return y_i = ± z_h(i), a fixed sparse projection to a greater size.

    h(i) = ⌊m frac(φ i)⌋ with the golden ratio φ in 32 bits, so that each of
    the m values is used about equally often; the signs are bits of another
    product.  Nothing is drawn, so that nothing has to be saved.

    Args:
        values: z, shape ``(m,)``.
        size: The length of y.
    """
    index = torch.arange(1, size + 1, device=values.device)
    chosen = (index * 2654435769 % 2**32) * len(values) // 2**32
    signs = 1 - 2 * (index * 2246822519 // 2**15 % 2)
    return values[chosen] * signs.to(values.dtype)


def routed(
    state: Tensor,
    query: Tensor,
    memory: tuple[Tensor, Tensor],
    prior: Tensor,
) -> Tensor:
    """Return M(z) z with M = Σ_k π_k U_k, and π by attention to keys.

    π = softmax(keys · Q z / √width + prior), in float32 at least.

    Args:
        state: z, shape ``(..., rank)``.
        query: Q, shape ``(width, rank)``.
        memory: Keys ``(atoms, width)``, and atoms U ``(atoms, rank, rank)``.
        prior: Shape ``(atoms,)``.

    Returns:
        Shape ``(..., rank)``.
    """
    keys, atoms = memory
    wide = state.to(query.dtype)
    logits = wide @ query.T @ keys.T / len(query) ** 0.5 + prior
    moved = torch.einsum('...r,ksr->...ks', wide, atoms)
    return torch.einsum('...k,...ks->...s', logits.softmax(-1), moved)
