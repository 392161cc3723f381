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
    scale_output,
)
from .attention import AdaptedMultiheadAttention
from .change import adapt_layer, check_adapter, restore_layer
from .conv import (
    AdaptedConv,
    AdaptedConv1d,
    AdaptedConv2d,
    AdaptedConv3d,
)
from .conv_transpose import (
    AdaptedConvTranspose,
    AdaptedConvTranspose1d,
    AdaptedConvTranspose2d,
    AdaptedConvTranspose3d,
)
from .embedding import AdaptedEmbedding
from .known import (
    ADAPTED_CLASSES,
    adapted_class,
    weight_name,
    why_not_adapted,
)
from .linear import AdaptedLinear, ReadLinear

__all__ = [
    'ADAPTED_CLASSES',
    'AdaptedConv',
    'AdaptedConv1d',
    'AdaptedConv2d',
    'AdaptedConv3d',
    'AdaptedConvTranspose',
    'AdaptedConvTranspose1d',
    'AdaptedConvTranspose2d',
    'AdaptedConvTranspose3d',
    'AdaptedEmbedding',
    'AdaptedLayer',
    'AdaptedLinear',
    'AdaptedMultiheadAttention',
    'OperatorLayer',
    'ReadLinear',
    'adapt_layer',
    'adapted_class',
    'adapted_layers',
    'check_adapter',
    'restore_layer',
    'scale_output',
    'weight_name',
    'why_not_adapted',
]
