"""Adapters: trainable updates of frozen weights."""

from .base import Adapter
from .flora import FLoRA, tucker_ranks
from .functional import mode_product, tucker_to_weight
from .inject import InjectionReport, adapted_layers, inject
from .layers import (
    AdaptedConv2d,
    AdaptedLayer,
    AdaptedLinear,
    adapt_layer,
    adapted_class,
    restore_layer,
)

__all__ = [
    'AdaptedConv2d',
    'AdaptedLayer',
    'AdaptedLinear',
    'Adapter',
    'FLoRA',
    'InjectionReport',
    'adapt_layer',
    'adapted_class',
    'adapted_layers',
    'inject',
    'mode_product',
    'restore_layer',
    'tucker_ranks',
    'tucker_to_weight',
]
