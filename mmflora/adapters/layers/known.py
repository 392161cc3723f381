"""Which layers can be adapted, and by which class."""

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..layer_weights import held_weight, weight_name
from ..tuning import is_norm
from .adapted import AdaptedLayer
from .conv import AdaptedConv1d, AdaptedConv2d, AdaptedConv3d
from .conv_transpose import (
    AdaptedConvTranspose1d,
    AdaptedConvTranspose2d,
    AdaptedConvTranspose3d,
)
from .embedding import AdaptedEmbedding
from .linear import AdaptedLinear
from .read_layer import read_class

ADAPTED_CLASSES: dict[type[nn.Module], type[AdaptedLayer]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv1d: AdaptedConv1d,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
    nn.ConvTranspose1d: AdaptedConvTranspose1d,
    nn.ConvTranspose2d: AdaptedConvTranspose2d,
    nn.ConvTranspose3d: AdaptedConvTranspose3d,
    nn.Embedding: AdaptedEmbedding,
}

# Subclasses that override forward() for old versions of PyTorch or for
# TorchScript alone.
_EQUIVALENT_FORWARDS = {
    ('mmcv.cnn.bricks.wrappers', name)
    for name in ('Linear', 'Conv2d', 'Conv3d', 'ConvTranspose2d')
} | {
    ('mmcv.cnn.bricks.wrappers', 'ConvTranspose3d'),
    ('timm.layers.linear', 'Linear'),
}
# What a subclass may define without computing anything else; beside these,
# names with double underscores (constructors, documentation).
_HARMLESS = {'reset_parameters', 'extra_repr'}


def adapted_class(layer: nn.Module) -> type[AdaptedLayer] | None:
    """Return the adapted class for a layer, ``None`` where there is none.

    A subclass of a stock layer is computed as that one if it changes its
    construction alone.  One with a forward pass of its own (weight
    standardization, dynamic padding) keeps it, and everything else that it
    overrides.
    """
    if isinstance(layer, AdaptedLayer) or held_weight(layer) is None:
        return None
    kind: Any = type(layer)
    same = (kind.__module__, kind.__name__) in _EQUIVALENT_FORWARDS
    for stock, adapted in ADAPTED_CLASSES.items():
        if not isinstance(layer, stock):
            continue
        held = weight_name(layer) == adapted.weight_name
        if held and (same or not _overrides(kind, stock)):
            return adapted
    return read_class(layer)


def why_not_adapted(layer: nn.Module) -> str:
    """Return why a layer cannot be adapted, ``''`` if it can."""
    if isinstance(layer, AdaptedLayer):
        return 'it already has an adapter'
    if hasattr(layer, 'adapter'):
        return "it has an attribute 'adapter' of its own"
    weight = held_weight(layer)
    if weight is None and isinstance(layer, nn.MultiheadAttention):
        return 'its projections are not packed (kdim or vdim)'
    if weight is None:
        return f'{type(layer).__name__} has no weight of its own'
    if not weight.is_floating_point():
        return f'its weight is {weight.dtype}'
    if is_norm(layer):
        return 'a norm has no matrix to update; NormTuning trains it'
    return _why_not_exchanged(layer)


def _why_not_exchanged(layer: Any) -> str:
    """Return why a layer cannot find another weight, ``''`` if it can."""
    if getattr(layer, 'max_norm', None) is not None:
        return 'max_norm rewrites the frozen table'
    if getattr(layer, 'sparse', False) and type(layer) is not nn.Embedding:
        return 'its gradients are sparse'
    if isinstance(layer, ParametrizationList):
        weight_norm = type(layer[0]).__name__ == '_WeightNorm'
        if not (layer.is_tensor or weight_norm):
            return 'it is parametrized by several tensors'
    if type(layer).__name__ == 'CondConv2d':
        return 'a matrix of experts has no update that is smaller than it'
    return ''


def _overrides(kind: type, stock: type) -> bool:
    """Return whether a subclass changes more than how a layer is made."""
    bases = kind.__mro__[: kind.__mro__.index(stock)]
    return any(
        name not in _HARMLESS and not name.startswith('__')
        for base in bases
        for name in vars(base)
    )
