"""OLoRA: LoRA on an orthonormal basis of the weight."""

from torch import Tensor

from mmflora.registry import ADAPTERS

from ..decompositions import orthonormal_factors
from .lora_start import StartedLoRA


@ADAPTERS.register_module()
class OLoRA(StartedLoRA):
    """LoRA whose start is the leading part of the weight's QR decomposition.

    Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language
    Models" (2024), section 3: B0 holds the first r columns of Q, A0 the first
    r rows of R.

    Args:
        weight: The frozen weight.
        **options: As for :class:`StartedLoRA`, without iterations.

    Example:
        >>> adapter = dict(type='OLoRA', rank=16)
    """

    paper = 'Büyükakyüz, 2024, arXiv:2406.01775'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float | None = None,
        rslora: bool = False,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(
            weight, rank, alpha, rslora, dropout=dropout, path=path
        )

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the leading columns of Q and rows of R."""
        return orthonormal_factors(matrix, len(self.down))
