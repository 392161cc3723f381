"""LoRA that starts at a part of the frozen weight.

The published methods subtract that part from the weight.  Here the weight
stays as it is, and the start's product is subtracted from the update: what is
computed, and every gradient, is the same, while the base keeps its content,
start and end of training need no conversion, and the first step is exact.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..base import Adapter, LowRank
from ..calibrated import CalibratedAdapter
from ..functional import moved_factors
from ..layer_weights import frozen_weight
from ..precision import full_precision
from ..settings import check_count, check_iterations
from .lora import LoRA


class StartedLoRA(LoRA):
    """ΔW = s (B A − B0 A0), with the start B0, A0 taken from W.

    The start is kept, as buffers, and saved with the adapter.  Convolutions
    have LoRA's spatial form.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        alpha: s = alpha / rank.  By default s = 1.
        iterations: Where the start is a decomposition that can be had by
            iteration: how often, for large weights.  ``None``: exactly.
        **options: As for :class:`LoRA`.
    """

    products = (('up', 'down'), ('start_up', 'start_down'))
    start_up: Tensor
    start_down: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float | None = None,
        rslora: bool = False,
        iterations: int | None = None,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        kind = type(self).__name__
        check_count(kind, 'rank', rank)
        wanted = float(rank) if alpha is None else alpha
        super().__init__(
            weight, rank, wanted, rslora=rslora, dropout=dropout, path=path
        )
        self.iterations = check_iterations(kind, iterations)
        self.register_buffer('start_up', torch.empty_like(self.up))
        self.register_buffer('start_down', torch.empty_like(self.down))
        self._begin(weight)

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return B0 and A0 with s B0 A0 a part of the weight.

        Args:
            matrix: The weight, shape ``(out, in · kernel)``, in float32 at
                least.

        Returns:
            Shapes ``(out, rank)`` and ``(rank, in · kernel)``.
        """
        raise NotImplementedError

    def follow(self, layer: nn.Module) -> None:
        self._begin(frozen_weight(layer))

    @torch.no_grad()
    def _begin(self, weight: Tensor) -> None:
        self._begin_at(*self.start(self._matrix(weight)))

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.detach().flatten(1).to(self.up.dtype)

    def _begin_at(self, up: Tensor, down: Tensor) -> None:
        self.start_up.copy_(up)
        self.start_down.copy_(down.view(self.down.shape))
        self.up.copy_(self.start_up)
        self.down.copy_(self.start_down)

    def squeezes(self) -> bool:
        return False

    def delta_weight(self) -> Tensor:
        """Return s (B A − B0 A0), in the weight's shape."""
        return Adapter.delta_weight(self)

    def low_rank(self) -> LowRank:
        """Return s (B A − B0 A0) as two factors of rank 2 r."""
        with full_precision(self.up.device.type):
            up, start = self.scale * self.up, self.scale * self.start_up
            return LowRank(
                *moved_factors(up, self.down, start, self.start_down)
            )

    def core_parameters(self) -> Iterator[nn.Parameter]:
        """Yield nothing: no factor starts at zero."""
        return iter(())

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield both factors: at zero the start would be lost to W."""
        yield from (self.up, self.down)


class LoRAStartedByData(CalibratedAdapter, StartedLoRA):
    """ΔW = s (B A − B0 A0), with the start B0, A0 made of a statistic.

    The subclass asks for it, and passes the start to ``_begin_at``.
    """

    fixed = ('calibrated',)

    def start(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return zeros, as long as nothing is known of the data."""
        return torch.zeros_like(self.up), torch.zeros_like(self.down)
