"""Adapted linear layers."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..operators import LinearMap, trained
from ..quantized.weight import QuantizedWeight
from .adapted import AdaptedLayer, OperatorLayer

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


class ReadLinear(AdaptedLayer, nn.Linear):
    """``nn.Linear`` whose weight its parent reads past the forward pass.

    ``F.linear(x, self.qkv.weight)``, as BEiT, EVA and Swin V2 have it, and
    PyTorch's fused kernels find W + ΔW under the old name, the adapted bias
    too.
    """

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return W + ΔW."""
        return self.adapted_weight()

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """Return the adapted bias."""
        return self.adapted_bias()
