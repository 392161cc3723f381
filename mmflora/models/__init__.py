"""Backbones: plain ones, and any backbone with a frozen base and adapters."""

from .convnext import ConvNeXt
from .peft_backbone import adapt_backbone, build_peft_backbone
from .peft_convnext import FLoRAConvNeXt, PEFTConvNeXt
from .timm_backbone import build_timm_backbone

__all__ = [
    'ConvNeXt',
    'FLoRAConvNeXt',
    'PEFTConvNeXt',
    'adapt_backbone',
    'build_peft_backbone',
    'build_timm_backbone',
]
