"""Backbones, necks for plain ones, and models with frozen parts."""

from .batch_norm_neck import BatchNormNeck
from .convnext import ConvNeXt
from .frozen import adapt_backbone, build_peft_backbone, freeze_part
from .intern_vit import InternViT
from .peft_convnext import FLoRAConvNeXt, PEFTConvNeXt
from .peft_intern_vit import FLoRAInternViT, PEFTInternViT
from .peft_model import build_peft_model
from .peft_options import PEFTOptions
from .simple_pyramid import SimplePyramid
from .timm_backbone import build_timm_backbone

__all__ = [
    'BatchNormNeck',
    'ConvNeXt',
    'FLoRAConvNeXt',
    'FLoRAInternViT',
    'InternViT',
    'PEFTConvNeXt',
    'PEFTInternViT',
    'PEFTOptions',
    'SimplePyramid',
    'adapt_backbone',
    'build_peft_backbone',
    'build_peft_model',
    'build_timm_backbone',
    'freeze_part',
]
