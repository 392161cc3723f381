"""DoRA: LoRA of the direction, and a magnitude for each output channel.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), equation 5;
as its section 4.3 proposes, the norm is a constant to the gradient.

Differences: on the fast path the norm comes from the factors, without the
sum W + ΔW; transposed convolutions have their output channels in the second
dimension.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..functional import (
    channel_norms,
    channel_view,
    low_rank_norms,
    relative_scale,
    scale_channels,
)
from ..layer_weights import frozen_weight, transposed_groups
from ..precision import full_precision
from .lora import LoRA


@ADAPTERS.register_module()
class DoRA(LoRA):
    """Adapted weight m · (W + s B A) / ‖W + s B A‖, by output channel.

    The magnitude m starts at ‖W‖, so that training starts at the frozen
    weight.  Rows of an embedding count as its channels.

    Args:
        weight: The frozen weight.
        transposed: The groups of a transposed convolution, 0 else.
        **options: As for :class:`LoRA`, both forms included.

    Example:
        >>> adapter = dict(type='DoRA', rank=8, alpha=16)
    """

    paper = 'Liu et al., 2024, arXiv:2402.09353'
    additive = False
    products = ()  # it divides by norms of the sum
    from_layer: ClassVar[tuple[str, ...]] = ('groups', 'transposed')

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float = 16.0,
        form: str = 'spatial',
        rslora: bool = False,
        groups: int = 1,
        transposed: int = 0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(
            weight, rank, alpha, form, rslora, groups, dropout, path
        )
        self.view = channel_view(weight.shape, transposed)
        channels = self.view[0] * self.view[2]
        self.magnitude = self.parameter_like(weight, channels)
        self.magnitude.data.copy_(self._norms(weight.detach()))

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> LoRA:
        groups = transposed_groups(layer)
        if groups:
            options = {**options, 'transposed': groups}
        return super().for_layer(layer, **options)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the magnitude: at zero the layer would be zero."""
        yield self.magnitude

    def follow(self, layer: nn.Module) -> None:
        self.reset_parameters()
        weight = frozen_weight(layer).detach()
        self.magnitude.data.copy_(self._norms(weight))

    def _norms(self, weight: Tensor) -> Tensor:
        wide = weight.to(self.up.dtype)
        return channel_norms(wide, self.view)

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return m · (W + ΔW) / ‖W + ΔW‖, in the type of ``weight``."""
        with full_precision(weight.device.type):
            whole = weight + self.delta_weight()
            norms = channel_norms(whole.detach(), self.view)
            scale = relative_scale(self.magnitude, norms)
            return scale_channels(whole, scale, self.view).to(weight.dtype)

    def output_scale(self, weight: Tensor) -> Tensor | None:
        """Return m / ‖W + ΔW‖, where the update has two factors."""
        update = self.low_rank()
        if update is None:
            return None
        with full_precision(weight.device.type):
            left, right = (factor.detach() for factor in update)
            wide = weight.detach().to(left.dtype)
            norms = low_rank_norms(wide, left, right)
            return relative_scale(self.magnitude, norms)
