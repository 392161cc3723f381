"""Giving a layer an adapter, and taking it away, in place."""

from typing import Any

from torch import nn

from ..base import Adapter
from .adapted import AdaptedLayer, OperatorLayer
from .known import adapted_class, why_not_adapted
from .read_layer import read_class


def check_adapter(
    layer: nn.Module, adapter: Adapter, read: bool = False
) -> type[AdaptedLayer]:
    """Return the class that a layer would have with an adapter.

    Raises:
        TypeError: If the layer's type cannot be adapted.
        ValueError: If the adapter has dropout, and the layer no place for it.
    """
    own: Any = adapter.layer_class(layer)
    if own is not None:
        if isinstance(layer, AdaptedLayer) or read:
            raise TypeError(
                f'{type(layer).__name__} cannot be adapted: '
                + (
                    'its parent reads its weight past the forward pass.'
                    if read
                    else 'it already has an adapter.'
                )
            )
        chosen: type[AdaptedLayer] = own
        return chosen
    reason = why_not_adapted(layer)
    adapted = read_class(layer) if read else adapted_class(layer)
    if reason or adapted is None:
        raise TypeError(
            f'{type(layer).__name__} cannot be adapted: {reason}. Leave it '
            'out with `exclude`.'
        )
    if adapter.dropout and not issubclass(adapted, OperatorLayer):
        raise ValueError(
            f'{type(layer).__name__} reads W + ΔW where it computes, and has '
            'no input for ΔW alone, of which entries could be dropped, but '
            f'dropout={adapter.dropout}. Give it dropout=0 through `targets`, '
            "such as {'attn': dict(dropout=0.0), '.*': {}}."
        )
    return adapted


def adapt_layer(
    layer: nn.Module, adapter: Adapter, read: bool = False
) -> AdaptedLayer:
    """Turn a layer into its adapted class, in place.

    Args:
        layer: A layer for which :func:`adapted_class` names a class.
        adapter: The update of its weight.
        read: The layer's parent reads the weight past the forward pass.

    Returns:
        The same object.

    Raises:
        TypeError: If the layer's type cannot be adapted.
        ValueError: If the adapter has dropout, and the layer no place for it.
    """
    adapted = check_adapter(layer, adapter, read)
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
    for name in ('adapter_enabled', 'lean'):
        vars(layer).pop(name, None)
    layer.__class__ = stock  # type: ignore[assignment]
    return layer
