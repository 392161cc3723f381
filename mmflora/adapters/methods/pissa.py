"""PiSSA: LoRA on the leading singular vectors of the weight."""

import math

from torch import Tensor

from mmflora.registry import ADAPTERS

from .lora_start import StartedLoRA, leading_svd


@ADAPTERS.register_module()
class PiSSA(StartedLoRA):
    """LoRA whose start s B0 A0 is the weight's best approximation.

    Meng et al., "PiSSA: Principal Singular Values and Singular Vectors
    Adaptation of Large Language Models" (2024), equations 2 and 3:
    B0 = U √S, A0 = √S Vᵀ of the leading r singular values.

    Args:
        weight: The frozen weight.
        **options: As for :class:`StartedLoRA`.

    Example:
        >>> adapter = dict(type='PiSSA', rank=16)
    """

    paper = 'Meng et al., 2024, arXiv:2404.02948'

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return ±U √(S / |s|) and √(S / |s|) Vᵀ, with the sign of s."""
        u, s, vh = leading_svd(matrix, len(self.down), self.iterations)
        root = (s / abs(self.scale)).sqrt()
        left = u * math.copysign(1, self.scale)
        return left * root, root[:, None] * vh
