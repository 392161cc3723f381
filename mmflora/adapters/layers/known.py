"""Which layers can be adapted, and by which class."""

from typing import Any

from torch import nn

from .adapted import AdaptedLayer
from .attention import AdaptedMultiheadAttention
from .conv import AdaptedConv1d, AdaptedConv2d, AdaptedConv3d
from .conv_transpose import (
    AdaptedConvTranspose1d,
    AdaptedConvTranspose2d,
    AdaptedConvTranspose3d,
)
from .embedding import AdaptedEmbedding
from .linear import AdaptedLinear

ADAPTED_CLASSES: dict[type[nn.Module], type[AdaptedLayer]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv1d: AdaptedConv1d,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
    nn.ConvTranspose1d: AdaptedConvTranspose1d,
    nn.ConvTranspose2d: AdaptedConvTranspose2d,
    nn.ConvTranspose3d: AdaptedConvTranspose3d,
    nn.Embedding: AdaptedEmbedding,
    nn.MultiheadAttention: AdaptedMultiheadAttention,
}

# Subclasses that override forward() for old versions of PyTorch alone.
_EQUIVALENT_FORWARDS = {
    ('mmcv.cnn.bricks.wrappers', name)
    for name in ('Linear', 'Conv2d', 'Conv3d', 'ConvTranspose2d')
} | {('mmcv.cnn.bricks.wrappers', 'ConvTranspose3d')}
# What a subclass may define without computing anything else; beside these,
# names with double underscores (constructors, documentation).
_HARMLESS = {'reset_parameters', 'extra_repr'}


def weight_name(layer: nn.Module) -> str:
    """Return the name of the weight that an adapter of a layer updates."""
    for stock, adapted in ADAPTED_CLASSES.items():
        if isinstance(layer, stock):
            return adapted.weight_name
    return 'weight'


def adapted_class(layer: nn.Module) -> type[AdaptedLayer] | None:
    """Return the adapted class for a layer, ``None`` where there is none.

    A subclass of a supported layer counts if it changes its construction
    alone.  One with a forward pass of its own (weight standardization, dynamic
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


def why_not_adapted(layer: nn.Module) -> str:
    """Return why a layer cannot be adapted, ``''`` if it can."""
    if isinstance(layer, AdaptedLayer):
        return 'it already has an adapter'
    if adapted_class(layer) is None:
        return f'{type(layer).__name__} has no adapted class'
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return 'max_norm rewrites the frozen table'
    if isinstance(layer, nn.MultiheadAttention) and not isinstance(
        layer.in_proj_weight, nn.Parameter
    ):
        return 'its projections are not packed (kdim or vdim)'
    return ''


def _overrides(kind: type, stock: type) -> bool:
    """Return whether a subclass changes more than how a layer is made."""
    bases = kind.__mro__[: kind.__mro__.index(stock)]
    return any(
        name not in _HARMLESS and not name.startswith('__')
        for base in bases
        for name in vars(base)
    )
