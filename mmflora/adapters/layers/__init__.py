"""The adapted layers: a stock layer whose weight is W + ΔW.

An adapted layer is the very layer that its model built: it keeps its
parameters, names, hooks and settings, gains the child ``adapter``, and
computes with the adapted weight.  Its class changes in place, and changes
back when the adapter is removed.
"""

from .adapted import (
    AdaptedLayer,
    OperatorLayer,
    adapted_layers,
)
from .change import adapt_layer, check_adapter, restore_layer
from .conv import AdaptedConv
from .known import (
    ADAPTED_CLASSES,
    adapted_class,
    why_not_adapted,
)
from .linear import AdaptedLinear
from .read_layer import ReadLayer, read_class

__all__ = [
    'ADAPTED_CLASSES',
    'AdaptedConv',
    'AdaptedLayer',
    'AdaptedLinear',
    'OperatorLayer',
    'ReadLayer',
    'adapt_layer',
    'adapted_class',
    'adapted_layers',
    'check_adapter',
    'read_class',
    'restore_layer',
    'why_not_adapted',
]
