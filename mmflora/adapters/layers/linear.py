"""Adapted linear layers."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..operators import linear, low_rank_linear
from ..quantized.weight import QuantizedWeight
from .adapted import AdaptedLayer, OperatorLayer, scale_output


class AdaptedLinear(OperatorLayer, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` with an adapter."""

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Apply the linear map."""
        return F.linear(inputs, weight, bias)

    def compute_adapted(self, inputs: Tensor) -> Tensor:
        """Apply the linear map, by the path that the adapter allows."""
        update = None if self.weight.requires_grad else self.adapter.low_rank()
        if update is not None:
            positions = inputs.numel() // max(1, inputs.shape[-1])
            path = self.chosen_path(positions, update)
            if path != 'dense':
                scale = self.adapter.output_scale(self.weight)
                bias = self.adapted_bias()
                output = low_rank_linear(
                    inputs,
                    self.weight,
                    bias if scale is None else None,
                    *update,
                    path == 'folded',
                )
                return scale_output(output, scale, bias, self.channel_dim)
        if isinstance(self.weight, QuantizedWeight):  # keep nothing dense
            dense = super().compute_adapted
            return checkpoint(dense, inputs, use_reentrant=False)
        return linear(inputs, self.adapted_weight(), self.adapted_bias())


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
