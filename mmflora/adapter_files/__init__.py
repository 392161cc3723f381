"""Adapters as files: readable, checked, and without pickle."""

from .adapter_file import AdapterFile
from .apply import apply_adapter
from .checkpoint import from_checkpoint, to_checkpoint, write_checkpoint
from .loading import is_adapter
from .reading import read_adapter
from .schema import SCHEMA_VERSION
from .writing import write_adapter

__all__ = [
    'SCHEMA_VERSION',
    'AdapterFile',
    'apply_adapter',
    'from_checkpoint',
    'is_adapter',
    'read_adapter',
    'to_checkpoint',
    'write_adapter',
    'write_checkpoint',
]
