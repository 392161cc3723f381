"""Backbones: plain ones, and any backbone with a frozen base and adapters."""

from .convnext import ConvNeXt
from .flora_convnext import FLoRAConvNeXt
from .peft_backbone import adapt_backbone, build_peft_backbone
from .timm_backbone import build_timm_backbone

__all__ = [
    'ConvNeXt',
    'FLoRAConvNeXt',
    'adapt_backbone',
    'build_peft_backbone',
    'build_timm_backbone',
]
