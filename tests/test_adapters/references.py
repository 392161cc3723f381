"""Three ways to build an update that share no code with mmflora."""

from collections.abc import Sequence

import tensorly
import torch
from tensorly.tucker_tensor import tucker_to_tensor
from torch import Tensor


def by_einsum(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Write the whole contraction as one sum (FLoRA, eq. 4)."""
    inner, outer = 'abcde'[: core.dim()], 'vwxyz'[: core.dim()]
    pairs = [o + i for o, i in zip(outer, inner, strict=True)]
    return torch.einsum(f'{inner},{",".join(pairs)}->{outer}', core, *factors)


def by_tensorly(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Let TensorLy contract."""
    with tensorly.backend_context('pytorch'):
        return tucker_to_tensor((core, list(factors)))


def by_unfolding(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Unfold, multiply and fold mode by mode, in the authors' order.

    A kernel's factors are those of output and input channels, height and
    width (FLoRA, eq. 5); a matrix has A G Bᵀ (eq. 6).
    """
    if core.dim() == 2:
        return factors[0] @ core @ factors[1].t()
    tensor = core
    for mode, factor in enumerate(factors):
        order = [mode, *(m for m in range(tensor.dim()) if m != mode)]
        moved = tensor.permute(order)
        unfolded = factor @ moved.reshape(moved.shape[0], -1)
        folded = unfolded.reshape(len(factor), *moved.shape[1:])
        back = sorted(range(len(order)), key=order.__getitem__)
        tensor = folded.permute(back)
    return tensor


REFERENCES = {
    'einsum': by_einsum,
    'tensorly': by_tensorly,
    'unfolding': by_unfolding,
}
