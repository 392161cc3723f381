"""Any method of huggingface/peft that adapts layers, as an adapter.

Peft is optional and is imported when the first such adapter is built.
"""

from .bridge import HFPEFT
from .catalogue import (
    MissingPeft,
    config_class,
    load_peft,
    refused_types,
    supported_types,
)
from .graft import shadow_of
from .layers import BridgedLayer, bridged_class

__all__ = [
    'HFPEFT',
    'BridgedLayer',
    'MissingPeft',
    'bridged_class',
    'config_class',
    'load_peft',
    'refused_types',
    'shadow_of',
    'supported_types',
]
