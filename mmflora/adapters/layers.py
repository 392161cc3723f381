"""The adapted layers: a stock layer whose weight is W + ΔW.

An adapted layer is the very layer that its model built: it keeps its
parameters, names, hooks and settings, gains the child ``adapter``, and
computes with the adapted weight.  Its class changes in place, and changes
back when the adapter is removed.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Adapter


class AdaptedLayer(nn.Module):
    """What all adapted layers share.

    Attributes:
        weight: The frozen weight W, under its old name.
        bias: The frozen bias or ``None``, under its old name.
        adapter: The update of ``weight``.
        stock_class: The class that the layer had before.
    """

    weight: Tensor
    bias: Tensor | None
    adapter: Adapter
    stock_class: type[nn.Module]

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Apply the layer's operator with the given weight and bias."""
        raise NotImplementedError

    def delta_weight(self) -> Tensor:
        """Return the update ΔW, scaled, in the shape of ``weight``."""
        return self.adapter.delta_weight()

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the layer with W + ΔW.

        With dropout in training, the update sees another input than the
        frozen weight does, which costs a second pass through the operator.
        """
        if self.training and self.adapter.dropout > 0:
            dropped = F.dropout(inputs, self.adapter.dropout)
            delta = self.delta_weight().to(self.weight.dtype)
            frozen = self.compute(inputs, self.weight, self.bias)
            return frozen + self.compute(dropped, delta, None)
        weight = self.adapter.adapted_weight(self.weight)
        return self.compute(inputs, weight, self.bias)


class AdaptedLinear(AdaptedLayer, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` with an adapter."""

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Apply the linear map."""
        return F.linear(inputs, weight, bias)


class AdaptedConv2d(AdaptedLayer, nn.Conv2d):
    """``nn.Conv2d`` with an adapter, grouped and depthwise included."""

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Convolve with the layer's stride, padding, dilation and groups."""
        return self._conv_forward(inputs, weight, bias)


ADAPTED_CLASSES: dict[type[nn.Module], type[AdaptedLayer]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv2d: AdaptedConv2d,
}

# Subclasses that override forward() for old versions of PyTorch alone.
_EQUIVALENT_FORWARDS = {
    ('mmcv.cnn.bricks.wrappers', 'Linear'),
    ('mmcv.cnn.bricks.wrappers', 'Conv2d'),
}
# What a subclass may define without computing anything else; beside these,
# names with double underscores (constructors, documentation).
_HARMLESS = {'reset_parameters', 'extra_repr'}


def adapted_class(layer: nn.Module) -> type[AdaptedLayer] | None:
    """Return the adapted class for a layer, ``None`` where there is none.

    A subclass of a supported layer counts where it changes its construction
    alone: one with a forward pass of its own (weight standardisation, dynamic
    padding) computes something else than the stock layer would, and the
    adapted class would lose whatever else it overrides.
    """
    for stock, adapted in ADAPTED_CLASSES.items():
        if not isinstance(layer, stock) or isinstance(layer, AdaptedLayer):
            continue
        kind: Any = type(layer)
        if (kind.__module__, kind.__name__) in _EQUIVALENT_FORWARDS:
            return adapted
        return None if _overrides(kind, stock) else adapted
    return None


def _overrides(kind: type, stock: type) -> bool:
    """Say whether a subclass changes more than how a layer is made."""
    bases = kind.__mro__[: kind.__mro__.index(stock)]
    return any(
        name not in _HARMLESS and not name.startswith('__')
        for base in bases
        for name in vars(base)
    )


def adapt_layer(layer: nn.Module, adapter: Adapter) -> AdaptedLayer:
    """Turn a layer into its adapted class, in place.

    Args:
        layer: A layer for which :func:`adapted_class` names a class.
        adapter: The update of ``layer.weight``.

    Returns:
        The same object.

    Raises:
        TypeError: If the layer's type cannot be adapted.
    """
    adapted = adapted_class(layer)
    if adapted is None:
        supported = ', '.join(kind.__name__ for kind in ADAPTED_CLASSES)
        raise TypeError(
            f'{type(layer).__name__} cannot be adapted: only {supported}, and '
            'subclasses that change their construction alone, can.'
        )
    stock = type(layer)
    layer.__class__ = adapted
    if not isinstance(layer, AdaptedLayer):  # for the type checker
        raise TypeError(f'{adapted.__name__} is not an AdaptedLayer')
    layer.stock_class = stock
    layer.adapter = adapter
    return layer


def restore_layer(layer: AdaptedLayer) -> nn.Module:
    """Drop a layer's adapter and give the layer its stock class back."""
    stock = layer.stock_class
    del layer.adapter
    del layer.stock_class
    layer.__class__ = stock  # type: ignore[assignment]
    return layer
