"""Adapters as files: readable, checked, and without pickle."""

from .adapter import AdapterFile
from .apply import apply_adapter
from .convert import from_checkpoint, to_checkpoint, write_checkpoint
from .loaders import is_adapter
from .of_model import load_adapter, save_adapter
from .read import read_adapter
from .schema import SCHEMA_VERSION
from .write import write_adapter

__all__ = [
    'SCHEMA_VERSION',
    'AdapterFile',
    'apply_adapter',
    'from_checkpoint',
    'is_adapter',
    'load_adapter',
    'read_adapter',
    'save_adapter',
    'to_checkpoint',
    'write_adapter',
    'write_checkpoint',
]
