"""Matrix products of lower ranks."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .ranked import Ranked, padded
from .stored import Settings
from .updates import Update


class NearestMatrices(Ranked):
    """The nearest products s B A of lower ranks, by the SVD of the update.

    With ΔW = U S Vᵀ they are ``B = ±U √(S / |s|)`` and ``A = √(S / |s|) Vᵀ``,
    with the sign of s (Eckart and Young; Vulić et al., "LoRA-Squeeze", 2026,
    arXiv:2602.10993, which takes a randomized SVD).  The SVD is that of a
    core of the update's own rank: ΔW is never computed.

    Args:
        method: LoRA's class.
        update: The update.
        down: The shape of A without its rank, ``(in, *kernel)``.
        settings: Those of the result, beside rank and alpha.
        scale: s.
        step: How many components one rank has.
    """

    def __init__(
        self,
        method: Any,
        update: Update,
        down: Sequence[int],
        settings: Settings,
        scale: float,
        step: int = 1,
    ) -> None:
        small = update.as_matrix().orthonormal()
        left, self.values, right = torch.linalg.svd(
            small.core, full_matrices=False
        )
        if small.factors:
            left = small.factors[0] @ left
            right = right @ small.factors[1].T
        self.left, self.right = left, right
        largest = -(-len(self.values) // step)
        super().__init__(method, largest, float(self.values.square().sum()))
        self.down, self.scale, self.step = tuple(down), scale, step
        self.given = dict(settings)

    def settings(self, rank: int) -> dict[str, Any]:
        return dict(self.given, rank=rank, alpha=self.scale * rank)

    def _width(self, rank: int) -> int:
        """Return the number of components; only plain ranks are clipped."""
        if self.step > 1:
            return rank * self.step
        return min(rank, len(self.left), self.right.shape[1])

    def tensors(self, rank: int) -> dict[str, Tensor]:
        width = self._width(rank)
        root = (self.values[:width] / abs(self.scale)).sqrt()
        sign = math.copysign(1, self.scale)
        up = sign * self.left[:, :width] * root
        down = root[:, None] * self.right[:width]
        return dict(
            up=padded(up, (len(up), width)),
            down=padded(down, (width, down.shape[1])).view(width, *self.down),
        )

    def parameters(self, rank: int) -> int:
        return self._width(rank) * (len(self.left) + self.right.shape[1])

    def kept(self, rank: int) -> float:
        return float(self.values[: self._width(rank)].square().sum())
