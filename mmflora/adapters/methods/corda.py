"""CorDA: LoRA on a decomposition of the weight that the data orients."""

from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..decompositions import oriented_factors
from ..layer_statistics import check_patches
from ..layer_weights import frozen_weight
from ..settings import check_choice
from .lora import LoRA
from .lora_start import LoRAStartedByData

MODES = ('preview', 'preserve')


@ADAPTERS.register_module()
class CorDA(LoRAStartedByData):
    """LoRA whose start s B0 A0 are components of W C, times C⁻¹.

    Yang et al., "CorDA: Context-Oriented Decomposition Adaptation of Large
    Language Models for Task-Aware Parameter-Efficient Fine-tuning" (NeurIPS
    2024), equations 1 to 4: C is the second moment of the layer's input and
    U S Vᵀ = W C; B0 = U √S, A0 = √S Vᵀ C⁻¹.  Where C can hardly be inverted,
    its diagonal is raised, as in the authors' release.  For a convolution, C
    is that of the patches (of all groups together), and W the kernel
    flattened to ``(out, in / groups · kernel)``.  Layers whose input meets
    the weight otherwise (transposed convolutions, embeddings, attention) are
    left out.

    It needs ``calibration`` beside ``adapter``.

    Args:
        weight: The frozen weight.
        mode: ``'preview'`` trains the r largest components, which the task
            uses most (the paper's instruction-previewed mode);
            ``'preserve'`` the r smallest, which leaves to the frozen weight
            what the data's context needs (knowledge-preserved; for that, the
            data should be that of the old task).
        **options: As for :class:`StartedLoRA`, without iterations.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='CorDA', rank=16),
        ...     calibration=dict(batches=8),
        ... )
    """

    paper = 'Yang et al., 2024, arXiv:2406.05223'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float | None = None,
        mode: str = 'preview',
        rslora: bool = False,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(
            weight, rank, alpha, rslora, dropout=dropout, path=path
        )
        self.mode = check_choice('CorDA', 'mode', mode, MODES)
        self.ask_for('second moment', weight)

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> LoRA:
        check_patches('CorDA', layer)
        return super().for_layer(layer, **options)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Decompose the weight in the context of its input."""
        up, down = oriented_factors(
            self._matrix(frozen_weight(layer)),
            statistic,
            len(self.down),
            self.scale,
            self.mode == 'preview',
        )
        self._begin_at(up, down)
