"""FLoRA's layer as the paper's authors compute it, written from the paper.

Si et al., "Maintaining Structural Integrity in Parameter Spaces for Parameter
Efficient Fine-tuning" (ICLR 2025), equations 4 to 6: the update is built as a
dense tensor, a second operator applies it, and the results are added.  The
modes are the weight's own, so that depthwise convolutions work; the kernel's
are contracted first, which takes the least time and memory.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.adapters import tucker_ranks


class SecondOperator(nn.Module):
    """A frozen layer, and beside it the same operator with the update.

    Args:
        layer: The frozen layer.
        rank: The rank of the channel modes.
        kernel_rank: The rank of the kernel's modes.
        scale: The paper's s.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        rank: int,
        kernel_rank: int,
        scale: float = 4.0,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale
        ranks = tucker_ranks(layer.weight.shape, rank, kernel_rank)
        self.core = nn.Parameter(torch.zeros(ranks))
        self.factors = nn.ParameterList(
            torch.empty(size, mode_rank)
            for size, mode_rank in zip(layer.weight.shape, ranks, strict=True)
        )
        for factor in self.factors:
            nn.init.kaiming_normal_(factor, a=math.sqrt(3))

    def delta_weight(self) -> Tensor:
        """Return s · G ×1 A1 ×2 A2 … in the weight's shape."""
        if self.core.dim() == 2:
            pattern = 'ab,jb,ia->ij'
        else:
            pattern = 'abcd,ld,kc,jb,ia->ijkl'
        delta = torch.einsum(pattern, self.core, *list(self.factors)[::-1])
        return self.scale * delta

    def forward(self, inputs: Tensor) -> Tensor:
        """Add the update's output to the frozen layer's."""
        delta = self.delta_weight()
        if isinstance(self.layer, nn.Linear):
            return self.layer(inputs) + F.linear(inputs, delta)
        return self.layer(inputs) + self.layer._conv_forward(
            inputs, delta, None
        )
