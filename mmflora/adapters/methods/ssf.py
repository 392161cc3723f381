"""SSF: a scale and a shift of each layer's output."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, CannotAdapt
from ..functional import (
    channel_view,
    scale_and_shift,
    scale_channels,
    scale_output,
)
from ..layer_weights import bias_name, frozen_weight, transposed_groups
from ..layers import AdaptedLayer, OperatorLayer
from ..precision import full_precision
from ..settings import check_flag
from ..stored import Settings, Tensors


@ADAPTERS.register_module()
class SSF(Adapter):
    """y = γ ⊙ (W x + b) + β by output channel, γ = 1 and β = 0 at the start.

    Lian et al., "Scaling & Shifting Your Features: A New Baseline for
    Efficient Model Tuning" (2022), equation 4.  Merged it is the weight
    γ ⊙ W and the bias γ ⊙ b + β, under the stock model's keys: where a layer
    has no bias there is no shift, and a remark says so.  The scale and shift
    behind a norm are the norm's own weight and bias; `NormTuning` trains
    them.  Embeddings are left out, as they have no output channels.

    Args:
        weight: The frozen weight.
        shift: Whether to shift; needs a layer with a bias.
        transposed: The groups of a transposed convolution, 0 else.

    Example:
        >>> adapter = dict(type='SSF')
        >>> with_norms = dict(
        ...     adapter=dict(type='SSF'),
        ...     targets={'.*': {}, '.*norm.*': dict(type='NormTuning')},
        ... )
    """

    paper = 'Lian et al., 2022, arXiv:2210.08823'
    additive = False
    linear: ClassVar[Mapping[str, float]] = {'scale': 1.0, 'shift': 0.0}
    from_layer: ClassVar[tuple[str, ...]] = ('transposed',)

    def __init__(
        self, weight: Tensor, shift: bool = True, transposed: int = 0
    ) -> None:
        super().__init__(weight)
        self.view = channel_view(weight.shape, transposed)
        channels = self.view[0] * self.view[2]
        self.left_out = False
        self.scale = self.parameter_like(weight, channels)
        self.shift: Tensor | None = None
        if shift:
            self.shift = self.parameter_like(weight, channels)
        self.reset_parameters()

    @classmethod
    def for_layer(
        cls, layer: nn.Module, shift: bool = True, **options: Any
    ) -> 'SSF':
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            raise CannotAdapt('an embedding has no output channels')
        check_flag('SSF', 'shift', shift)
        bias = layer._parameters.get(bias_name(layer))
        adapter = cls(
            frozen_weight(layer),
            shift=shift and bias is not None,
            transposed=transposed_groups(layer),
            **options,
        )
        adapter.left_out = shift and bias is None
        return adapter

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        return len(tensors['scale']), 1  # as one column

    @classmethod
    def stored_signature(cls, tensors: Tensors, settings: Settings) -> str:
        """Return the signature; a layer without bias has no shift."""
        shift = dict(settings, shift='shift' in tensors)
        return super().stored_signature(tensors, shift)

    def reset_parameters(self) -> None:
        """Set the scale to one and the shift to zero."""
        nn.init.ones_(self.scale)
        if self.shift is not None:
            nn.init.zeros_(self.shift)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the scale: at zero the layer would be zero."""
        yield self.scale

    def delta_weight(self) -> Tensor:
        """Return zero: nothing is added before the weight is scaled."""
        return self.scale.new_zeros(self.weight_shape)

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return γ ⊙ W, in the type of ``weight``."""
        with full_precision(weight.device.type):
            scaled = scale_channels(weight, self.scale, self.view)
            return scaled.to(weight.dtype)

    def adapted_bias(self, bias: Tensor | None) -> Tensor | None:
        """Return γ ⊙ b + β, ``None`` where the layer has no bias."""
        if bias is None:
            return None
        return scale_and_shift(bias, self.scale, self.shift)

    def forward_layer(
        self, layer: nn.Module, inputs: Tensor, *arguments: Any
    ) -> Tensor | None:
        """Scale and shift the frozen layer's output.

        The frozen weight needs no gradient, and so not the layer's input.
        """
        if not isinstance(layer, OperatorLayer):
            return None
        output = layer.compute(inputs, layer.weight, None, *arguments)
        base: AdaptedLayer = layer
        bias = self.adapted_bias(base.base_bias())
        return scale_output(output, self.scale, bias, layer.channel_dim)

    def remark(self) -> str:
        return 'no shift: the layer has no bias' if self.left_out else ''

    def meaning(self) -> dict[str, Any]:
        return dict(channels=len(self.scale), shift=self.shift is not None)
