"""The updates of low rank that are nearest to a given one.

HOSVD takes the leading singular vectors of each unfolding; HOOI then
improves the factors in turn (De Lathauwer, De Moor and Vandewalle, "On the
best rank-1 and rank-(R1, …, RN) approximation of higher-order tensors",
2000).  HOOI is TensorLy's.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from mmflora.adapters.updates import Update


class MissingTensorLy(ImportError):  # noqa: N818
    """TensorLy is not installed."""


def nearest_tucker(
    delta: Tensor, ranks: Sequence[int], iterations: int = 10
) -> Update:
    """Return a Tucker update of given ranks that is near to ΔW.

    It is the nearest one for matrices.  For kernels HOSVD comes within a
    factor √N of the least distance, and HOOI within a local minimum.

    Args:
        delta: ΔW, of ``N`` modes.
        ranks: The rank of each mode, at most its size.
        iterations: The most HOOI does; 0 for HOSVD alone.

    Returns:
        With orthonormal factors, so that the core has the update's norm.

    Raises:
        MissingTensorLy: If TensorLy is not installed.
        ValueError: If ΔW is not finite.
    """
    exact = Update(delta.detach().cpu().double())
    if not bool(torch.isfinite(exact.core).all()):
        raise ValueError(
            f'The update of shape {tuple(delta.shape)} has values that are '
            'not finite: one of the two checkpoints is damaged.'
        )
    if not bool(exact.core.any()):
        factors = tuple(
            torch.eye(size, rank, dtype=torch.float64)
            for size, rank in zip(exact.shape, ranks, strict=True)
        )
        return Update(torch.zeros(*ranks, dtype=torch.float64), factors)
    found = exact.truncated(ranks)
    if iterations:
        found = exact.projected(_refine(exact.core, found, iterations))
    return found


def _refine(exact: Tensor, start: Update, iterations: int) -> list[Tensor]:
    """Improve factors by TensorLy's HOOI."""
    try:
        from tensorly.decomposition import tucker
    except ImportError as error:
        raise MissingTensorLy(
            "Extraction needs TensorLy: `pip install 'mmflora[extract]'` or "
            '`pip install tensorly`.'
        ) from error
    with warnings.catch_warnings():
        # Of ranks that exceed what the other modes span, as a depthwise
        # kernel's do; the factors are completed then.
        warnings.filterwarnings('ignore', 'Trying to compute SVD')
        _, found = tucker(
            exact.numpy(),
            rank=list(start.core.shape),
            n_iter_max=iterations,
            init=(start.core.numpy(), [a.numpy() for a in start.factors]),
            tol=1e-7,
            random_state=0,
        )
    return [torch.linalg.qr(torch.as_tensor(a).double()).Q for a in found]


def spectrum(tensor: Tensor, mode: int = 0) -> Tensor:
    """Return the singular values of an unfolding, in descending order.

    Returns:
        A vector; its squares sum to the squared norm.
    """
    unfolded = tensor.detach().cpu().double().movedim(mode, 0).flatten(1)
    tall = len(unfolded) > unfolded.shape[1]
    gram = unfolded.T @ unfolded if tall else unfolded @ unfolded.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()


def lora_energy(
    delta: Tensor, parameters: int, values: Tensor | None = None
) -> float:
    """Return how much of ΔW a LoRA of as many parameters explains at most.

    By SVD of the matrix ``(out, in · kernel)``, which is the nearest product
    B A of a rank.

    Args:
        delta: ΔW.
        parameters: How many parameters B and A may have together; the rank
            is the largest that they allow, 0 where even one is too much.
        values: :func:`spectrum` of ΔW, if it is known.

    Returns:
        The part of ‖ΔW‖² from 0 to 1.
    """
    squares = (spectrum(delta) if values is None else values).square()
    total = float(squares.sum())
    if total == 0:
        return 1.0
    rank = parameters // (len(delta) + delta[0].numel())
    return float(squares[:rank].sum()) / total
