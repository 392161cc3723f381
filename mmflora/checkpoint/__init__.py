"""Base weights, and the checkpoints of adapters over them."""

from .adapter_state import adapter_state_dict, attach_record
from .base_record import BaseRecord, base_records, content_hash
from .base_weights import load_base, load_convnext, pretrained_cfg
from .layouts import convnext_to_timm
from .safe_loading import trusted_checkpoints
from .sources import check_source, read_state_dict

__all__ = [
    'BaseRecord',
    'adapter_state_dict',
    'attach_record',
    'base_records',
    'check_source',
    'content_hash',
    'convnext_to_timm',
    'load_base',
    'load_convnext',
    'pretrained_cfg',
    'read_state_dict',
    'trusted_checkpoints',
]
