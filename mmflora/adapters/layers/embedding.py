"""Adapted tables of embeddings."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import full_precision
from .adapted import AdaptedLayer


class AdaptedEmbedding(AdaptedLayer, nn.Embedding):
    """``nn.Embedding`` with an adapter; only the rows looked up are updated.

    Gradients are dense, also where the frozen layer asked for sparse ones.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows of W + ΔW."""
        update = self.adapter.low_rank() if self.adapter_enabled else None
        plain = (
            self.padding_idx is None
            and not self.scale_grad_by_freq
            and self.adapter.additive
        )
        if update is None or not plain:
            return self._look_up(input, self.adapted_weight())
        with full_precision(input.device.type):
            rows = self._look_up(input, update.left) @ update.right
        frozen = self._look_up(input, self.weight)
        return (frozen + rows).to(self.weight.dtype)

    def _look_up(self, indices: Tensor, table: Tensor) -> Tensor:
        return F.embedding(
            indices,
            table,
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
        )
