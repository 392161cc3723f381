"""Merging adapters into their layers, undoing it, and switching them off."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Adapter, adapted_modules
from .layers import AdaptedLayer, adapted_layers, restore_layer
from .memory.lean import LeanLayers, make_lean_again, make_plain
from .quantized import QuantizedWeight
from .quantized_base import StoredWeights, dequantize_base, restore_base
from .tuning import tuned_parameters


@dataclass
class _MergedLayer:
    """What a merged layer was before."""

    layer: nn.Module
    adapted_class: type[AdaptedLayer]
    adapter: Adapter
    weight: nn.Parameter
    bias: nn.Parameter | None
    enabled: bool


class Merged:
    """The way back from a merge; keeps the adapters and the base weights.

    Dropped, the merge is final and the memory of both is free.

    Attributes:
        names: The names of the merged layers.
    """

    def __init__(
        self,
        layers: dict[str, _MergedLayer],
        stored: StoredWeights,
        lean: LeanLayers,
    ) -> None:
        self._layers = layers
        self._stored = stored
        self._lean = lean
        self._undone = False
        self.names = list(layers)

    def unmerge(self) -> None:
        """Give the layers their adapters and, bit for bit, their weights.

        Raises:
            RuntimeError: If it was done before.
        """
        if self._undone:
            raise RuntimeError(
                'This merge has been undone already: merge() returns a new '
                'way back each time.'
            )
        for old in self._layers.values():
            stock = type(old.layer)
            name = old.adapted_class.weight_name
            old.layer._parameters[name] = old.weight
            if old.bias is not None:
                old.layer._parameters[old.adapted_class.bias_name] = old.bias
            old.layer.__class__ = old.adapted_class
            old.layer.stock_class = stock  # type: ignore[assignment]
            old.layer.adapter = old.adapter
            if not old.enabled:
                old.layer.adapter_enabled = False  # type: ignore[assignment]
        restore_base(self._stored)
        make_lean_again(self._lean)
        self._layers, self._stored, self._lean = {}, [], []
        self._undone = True


@torch.no_grad()
def merge(model: nn.Module) -> Merged:
    """Replace each adapted layer by its stock class with the weight W + ΔW.

    The sum is rounded once to the weight's type.  An adapter that is disabled
    is merged too, and is disabled again once unmerged.  What a tuning method
    trains stays as it is: it is the base's own.  Merged, the model has the
    classes, hooks and keys that it had before any adapter, and computes at
    the frozen model's cost.

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
    _check_mergeable(model)
    merged = {
        name: (
            layer.adapter.adapted_weight(layer.base_weight()),
            _merged_bias(name, layer),
        )
        for name, layer in layers.items()
    }
    before = {}
    lean = make_plain(model)
    for name, layer in layers.items():
        before[name] = _MergedLayer(
            layer,
            type(layer),
            layer.adapter,
            layer.base_weight(),
            layer.base_bias(),
            layer.adapter_enabled,
        )
        _replace(layer, *merged[name])
    return Merged(before, dequantize_base(model), lean)


@torch.no_grad()
def merge_for_good(model: nn.Module) -> list[str]:
    """Merge as :func:`merge` does, without a way back.

    Each layer's frozen weight and adapter are dropped before the next layer
    is merged, so that the memory needed is the model's and one layer's.

    Returns:
        The names of the merged layers.

    Raises:
        ValueError: As :func:`merge`; the model is then as it was.
    """
    layers = adapted_layers(model)
    _check_mergeable(model)
    for name, layer in layers.items():
        if layer.base_bias() is None:
            _merged_bias(name, layer)  # which may refuse
    make_plain(model)
    for name, layer in layers.items():
        weight = layer.adapter.adapted_weight(layer.base_weight())
        _replace(layer, weight, _merged_bias(name, layer))
    dequantize_base(model)
    return list(layers)


def _replace(
    layer: AdaptedLayer, weight: Tensor, bias: nn.Parameter | None
) -> None:
    """Make an adapted layer a stock one of a given weight and bias."""
    weight_name, bias_name = layer.weight_name, layer.bias_name
    base = layer.base_weight()
    restore_layer(layer)
    layer._parameters[weight_name] = _frozen_like(base, weight)
    if bias is not None:
        layer._parameters[bias_name] = bias


def _check_mergeable(model: nn.Module) -> None:
    """Check that there is something to merge, and that all of it can be."""
    modules = adapted_modules(model)
    if not modules and not tuned_parameters(model):
        raise ValueError(
            f'{type(model).__name__} has no adapted layer to merge: it was '
            'never adapted, or has been merged already.'
        )
    for name, module in modules.items():
        adapter = module.adapter
        if not adapter.mergeable:
            why = adapter.why_not_mergeable
            raise ValueError(
                f"Layer '{name}': {type(adapter).__name__} cannot be "
                f'merged into a weight{": " if why else ""}{why}; keep the '
                'adapter.'
            )


def _merged_bias(name: str, layer: AdaptedLayer) -> nn.Parameter | None:
    """Return the merged bias, ``None`` where the frozen one stays."""
    base = layer.base_bias()
    bias = layer.adapter.adapted_bias(base)
    if bias is base or bias is None:
        return None
    if base is None:
        raise ValueError(
            f"Layer '{name}': {type(layer.adapter).__name__} gives it a bias, "
            'which the stock layer does not have; keep the adapter.'
        )
    return _frozen_like(base, bias)


def _frozen_like(base: nn.Parameter, value: Tensor) -> nn.Parameter:
    """Return a frozen parameter of a base's type and memory format."""
    if isinstance(base, QuantizedWeight):
        return nn.Parameter(value.to(base.dtype), requires_grad=False)
    return nn.Parameter(
        torch.empty_like(base).copy_(value), requires_grad=False
    )


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Switch a model's adapters off within a ``with`` block.

    Args:
        model: A model with adapters; within the block its layers compute
            with their frozen weights, its blocks without their bottlenecks.
            Parameters that a tuning method trains keep their values.

    Yields:
        The model.

    Example:
        >>> with disabled(model):
        ...     before_fine_tuning = model(images)
    """
    switched = [
        module
        for module in adapted_modules(model).values()
        if getattr(module, 'adapter_enabled', True)
    ]
    for module in switched:
        module.adapter_enabled = False
    try:
        yield model
    finally:
        for module in switched:
            vars(module).pop('adapter_enabled', None)
