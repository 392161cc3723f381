"""Adapted linear layers."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..operators import LinearMap, trained
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
        if isinstance(self.weight, QuantizedWeight):  # keep nothing dense
            dense = super().compute_adapted
            return checkpoint(dense, inputs, use_reentrant=False)
        return trained(
            inputs, self.adapted_weight(), self.adapted_bias(), _MAP
        )
