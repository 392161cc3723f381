"""Base weights, and the checkpoints of adapters over them."""

from mmflora.files.sources import check_source, read_state_dict
from mmflora.files.trust import trusted_checkpoints

from .base_weights import load_base, pretrained_cfg
from .layouts.convnext_keys import convnext_to_timm
from .record import BaseRecord, base_records, content_hash
from .state import adapter_state_dict, attach_record

__all__ = [
    'BaseRecord',
    'adapter_state_dict',
    'attach_record',
    'base_records',
    'check_source',
    'content_hash',
    'convnext_to_timm',
    'load_base',
    'pretrained_cfg',
    'read_state_dict',
    'trusted_checkpoints',
]
