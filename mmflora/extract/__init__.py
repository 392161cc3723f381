"""Adapters out of full fine-tunings, and out of other projects' files."""

from . import peft_lora as _peft_lora  # noqa: F401  registers its format
from .authors import load_authors_flora
from .full_tuning import LayerEnergy, extract_adapter, parameters_at, rank_for
from .nearest import lora_energy, nearest_tucker, spectrum

__all__ = [
    'LayerEnergy',
    'extract_adapter',
    'load_authors_flora',
    'lora_energy',
    'nearest_tucker',
    'parameters_at',
    'rank_for',
    'spectrum',
]
