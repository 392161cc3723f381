"""Backbones: plain ones, and any backbone with a frozen base and adapters."""

from .convnext import ConvNeXt
from .frozen import adapt_backbone, build_peft_backbone
from .intern_vit import InternViT
from .peft_convnext import FLoRAConvNeXt, PEFTConvNeXt
from .peft_intern_vit import FLoRAInternViT, PEFTInternViT
from .peft_options import PEFTOptions
from .timm_backbone import build_timm_backbone

__all__ = [
    'ConvNeXt',
    'FLoRAConvNeXt',
    'FLoRAInternViT',
    'InternViT',
    'PEFTConvNeXt',
    'PEFTInternViT',
    'PEFTOptions',
    'adapt_backbone',
    'build_peft_backbone',
    'build_timm_backbone',
]
