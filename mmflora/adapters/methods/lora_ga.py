"""LoRA-GA: LoRA whose first step is that of full fine-tuning."""

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..decompositions import gradient_factors
from ..settings import check_factor
from .lora_start import LoRAStartedByData


@ADAPTERS.register_module()
class LoRAGA(LoRAStartedByData):
    """LoRA whose start s B0 A0 lies along the gradient of the weight.

    Wang et al., "LoRA-GA: Low-Rank Adaptation with Gradient Approximation"
    (NeurIPS 2024), algorithm 1: with the singular value decomposition U S Vᵀ
    of the averaged gradient,

        A0 = d^¼ / √γ · V[1…r]ᵀ        B0 = d^¼ / √γ · U[r+1…2r]

    where d is the number of outputs, so that the first step of B A is the
    best approximation of the gradient's of rank 2 r; s = alpha / √rank.  The
    paper subtracts s B0 A0 from the weight, here it is subtracted from the
    update (see :class:`StartedLoRA`): the start is the frozen layer.

    A kernel is flattened to ``(out, in / groups · kernel)``.  Where a
    gradient has fewer than 2 r singular vectors, as those of depthwise
    kernels do, B0 has the last r, some of which A0 has, too.
    huggingface/peft 0.21 scales otherwise: A0 not at all, B0 by the singular
    values besides.

    It needs ``calibration`` beside ``adapter``.

    Args:
        weight: The frozen weight.
        gamma: The paper's γ, above zero: the larger, the smaller the start.
        **options: As for :class:`StartedLoRA`.

    Raises:
        TypeError: If ``gamma`` is no number.
        ValueError: If it is not above zero, or not finite.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='LoRAGA', rank=8),
        ...     calibration=dict(batches=8),
        ... )
    """

    paper = 'Wang et al., 2024, arXiv:2407.05000'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float | None = 16.0,
        gamma: float = 16.0,
        rslora: bool = True,
        iterations: int | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(
            weight, rank, alpha, rslora, iterations, dropout, path
        )
        self.gamma = check_factor('LoRAGA', 'gamma', gamma)
        if self.gamma < 0:
            raise ValueError(
                'LoRAGA: `gamma` is above zero, as its root divides the '
                f'start, got gamma={gamma!r}.'
            )
        self.ask_for('gradient', weight)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Take the start of the averaged gradient."""
        up, down = gradient_factors(
            self._matrix(statistic),
            len(self.down),
            self.gamma,
            self.iterations,
        )
        self._begin_at(up, down)
