"""Adapters: trainable updates of frozen weights."""

from .base import Adapter, LowRank
from .cost import choose_path, path_costs
from .flora import FLoRA, tucker_ranks
from .functional import mode_product, tucker_to_weight
from .inject import InjectionReport, adapted_layers, inject
from .layers import (
    ADAPTED_CLASSES,
    AdaptedLayer,
    adapt_layer,
    adapted_class,
    restore_layer,
)
from .lean import make_lean
from .merge import Merged, disabled, merge

__all__ = [
    'ADAPTED_CLASSES',
    'AdaptedLayer',
    'Adapter',
    'FLoRA',
    'InjectionReport',
    'LowRank',
    'Merged',
    'adapt_layer',
    'adapted_class',
    'adapted_layers',
    'choose_path',
    'disabled',
    'inject',
    'make_lean',
    'merge',
    'mode_product',
    'path_costs',
    'restore_layer',
    'tucker_ranks',
    'tucker_to_weight',
]
