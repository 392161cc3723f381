"""Adapted linear layers."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..operators import LinearMap
from ..quantized.weight import QuantizedWeight
from .adapted import OperatorLayer

_MAP = LinearMap()


class AdaptedLinear(OperatorLayer, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` with an adapter."""

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        return F.linear(inputs, weight, bias)

    def compute_adapted(self, inputs: Tensor) -> Tensor:
        positions = inputs.numel() // max(1, inputs.shape[-1])
        output = self.compute_low_rank(inputs, positions, _MAP)
        if output is not None:
            return output
        quantized = isinstance(self.weight, QuantizedWeight)
        if quantized and self.adapter.entries() is None:  # keep nothing dense
            dense = super().compute_adapted
            return checkpoint(dense, inputs, use_reentrant=False)
        return self.compute_dense(inputs, _MAP)
