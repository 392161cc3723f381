"""Adapted layers of any class, whose weight is read as W + ΔW."""

import functools
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..layer_weights import bias_name, weight_name
from .adapted import AdaptedLayer


class ReadLayer(AdaptedLayer):
    """A layer that computes as it always did, from W + ΔW.

    Whoever reads its weight finds the adapted one under the old name, the
    adapted bias too: a forward pass of the layer's own (timm's ``Conv2dSame``
    and ``StdConv2d``, deformable convolutions), its parent
    (``F.linear(x, self.qkv.weight)``, as BEiT, EVA and Swin V2 have it) or a
    fused kernel of PyTorch.  There is one path, the dense one.

    The update is added to the parameter that the layer holds.  What the layer
    makes of that, such as weight standardization, comes after it, so that
    merging is exact.

    Classes are made per stock class, see :func:`read_class`.
    """

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # ConvAWS2d computes buffers from the weight that it has loaded.
        enabled, self.adapter_enabled = self.adapter_enabled, False
        try:
            super()._load_from_state_dict(*args, **kwargs)
        finally:
            self.adapter_enabled = enabled

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the stock class: this one has no name."""
        # Weight norm leaves the weight of the last pass, with its graph.
        state = {
            key: value.detach() if isinstance(value, Tensor) else value
            for key, value in vars(self).items()
        }
        names = self.weight_name, self.bias_name
        with_bias = self.bias_name in vars(type(self))
        return _blank, (self.stock_class, *names, with_bias), state


def read_class(layer: nn.Module) -> type[ReadLayer]:
    """Return the class in which a layer's weight is read as W + ΔW."""
    stock: Any = type(layer)
    bias = bias_name(layer)
    held = bias in layer._parameters
    return _read_class(stock, weight_name(layer), bias, held)


@functools.cache
def _read_class(
    stock: type[nn.Module], weight: str, bias: str, with_bias: bool
) -> type[ReadLayer]:
    members: dict[str, Any] = dict(weight_name=weight, bias_name=bias)
    members[weight] = _read(weight, AdaptedLayer.adapted_weight)
    if with_bias:
        members[bias] = _read(bias, AdaptedLayer.adapted_bias)
    made: type[ReadLayer] = types.new_class(
        f'Read{stock.__name__}',
        (ReadLayer, stock),
        exec_body=lambda body: body.update(members),
    )
    return made


def _read(
    name: str, function: Callable[[AdaptedLayer], Tensor | None]
) -> property:
    """Return the property that stands before a parameter of a layer."""

    def read(layer: AdaptedLayer) -> Tensor | None:
        if name not in layer._parameters:
            raise AttributeError(name)
        try:
            return function(layer)
        except AttributeError as error:
            # nn.Module would go on to the frozen parameter.
            raise RuntimeError(f'{layer.adapter}: {error}') from error

    return property(read)


def _blank(*made: Any) -> ReadLayer:
    """Return a layer without any state, of a class as it was made."""
    kind = _read_class(*made)
    return kind.__new__(kind)
