"""PiSSA: LoRA on the leading singular vectors of the weight."""

from torch import Tensor

from mmflora.registry import ADAPTERS

from ..decompositions import best_factors
from .lora_start import StartedLoRA


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
        """Return the factors of the weight's best approximation."""
        rank = len(self.down)
        return best_factors(matrix, rank, self.scale, self.iterations)
