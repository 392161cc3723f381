"""Frozen weights in 8 or 4 bits, over which adapters train."""

from .kernels import MissingBitsAndBytes, load_kernels
from .quantization import Quantization, Scheme
from .weight import QuantizedWeight, dense, stored_tensors

__all__ = [
    'MissingBitsAndBytes',
    'Quantization',
    'QuantizedWeight',
    'Scheme',
    'dense',
    'load_kernels',
    'stored_tensors',
]
