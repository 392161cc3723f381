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

__all__ = [
    'HFPEFT',
    'MissingPeft',
    'config_class',
    'load_peft',
    'refused_types',
    'supported_types',
]
