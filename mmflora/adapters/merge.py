"""Merging adapters into their layers, undoing it, and switching them off."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .base import Adapter
from .inject import adapted_layers
from .layers import AdaptedLayer, restore_layer


@dataclass
class _MergedLayer:
    """What a merged layer was before."""

    layer: nn.Module
    adapted_class: type[AdaptedLayer]
    adapter: Adapter
    weight: nn.Parameter
    enabled: bool


class Merged:
    """The way back from a merge; keeps the adapters and the base weights.

    Dropped, the merge is final and the memory of both is free.

    Attributes:
        names: The names of the merged layers.
    """

    def __init__(self, layers: dict[str, _MergedLayer]) -> None:
        self._layers = layers
        self.names = list(layers)

    def unmerge(self) -> None:
        """Give the layers their adapters and, bit for bit, their weights.

        Raises:
            RuntimeError: If it was done before.
        """
        if not self._layers:
            raise RuntimeError(
                'This merge has been undone already: merge() returns a new '
                'way back each time.'
            )
        for old in self._layers.values():
            stock = type(old.layer)
            name = old.adapted_class.weight_name
            old.layer._parameters[name] = old.weight
            old.layer.__class__ = old.adapted_class
            old.layer.stock_class = stock  # type: ignore[assignment]
            old.layer.adapter = old.adapter
            if not old.enabled:
                old.layer.adapter_enabled = False  # type: ignore[assignment]
        self._layers = {}


@torch.no_grad()
def merge(model: nn.Module) -> Merged:
    """Replace each adapted layer by its stock class with the weight W + ΔW.

    The sum is rounded once to the weight's type.  Merged, the model has the
    classes and keys that it had before any adapter, and computes at the
    frozen model's cost.

    Args:
        model: A model with adapters, changed in place.

    Returns:
        The way back, see :class:`Merged`.

    Raises:
        ValueError: If the model has no adapter, or one that cannot be merged;
            the model is then as it was.

    Example:
        >>> way_back = merge(model)
        >>> way_back.unmerge()
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no adapted layer to merge: it was '
            'never adapted, or has been merged already.'
        )
    for name, layer in layers.items():
        if not layer.adapter.mergeable:
            raise ValueError(
                f"Layer '{name}': {type(layer.adapter).__name__} cannot be "
                'merged into a weight; keep the adapter.'
            )
    merged = {
        name: layer.adapter.adapted_weight(layer.base_weight())
        for name, layer in layers.items()
    }
    before = {}
    for name, layer in layers.items():
        before[name] = _MergedLayer(
            layer,
            type(layer),
            layer.adapter,
            layer.base_weight(),
            layer.adapter_enabled,
        )
        weight_name = layer.weight_name
        restore_layer(layer)
        base = before[name].weight
        layer._parameters[weight_name] = nn.Parameter(
            torch.empty_like(base).copy_(merged[name]), requires_grad=False
        )
    return Merged(before)


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Switch a model's adapters off within a ``with`` block.

    Args:
        model: A model with adapters; within the block its layers compute
            with their frozen weights.

    Yields:
        The model.

    Example:
        >>> with disabled(model):
        ...     before_fine_tuning = model(images)
    """
    layers = list(adapted_layers(model).values())
    before = [layer.adapter_enabled for layer in layers]
    for layer in layers:
        layer.adapter_enabled = False
    try:
        yield model
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.adapter_enabled = enabled
