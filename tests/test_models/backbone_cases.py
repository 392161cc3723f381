"""Backbones of each toolkit, small, and what their files look like."""

from dataclasses import dataclass, field

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import torch
from mmengine.registry import MODELS

FLORA = dict(type='FLoRA', rank=2, kernel_rank=2, scale=0.5)


@dataclass
class Case:
    """A backbone, what stands in its files, and the options it needs."""

    config: dict
    size: int = 64
    prefix: str = ''
    extra: tuple = ()
    new: tuple = ()
    autocast: str = 'bfloat16'
    options: dict = field(default_factory=dict)


RESNET = dict(
    type='mmdet.ResNet',
    depth=18,
    base_channels=8,
    num_stages=4,
    norm_eval=True,
    frozen_stages=-1,
)
CASES = {
    'mmdet ResNet': Case(RESNET, extra=('fc.weight', 'fc.bias')),
    'mmdet ResNet, bottleneck': Case(
        dict(RESNET, depth=50), extra=('fc.weight', 'fc.bias')
    ),
    'mmdet ResNet, deformable': Case(
        dict(
            RESNET,
            depth=50,
            dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, False, True, True),
        ),
        extra=('fc.weight', 'fc.bias'),
        autocast='float16',
    ),
    'mmdet SwinTransformer': Case(
        dict(
            type='mmdet.SwinTransformer',
            embed_dims=8,
            depths=(1, 2, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_size=4,
            drop_path_rate=0.0,
        ),
        prefix='backbone.',
        new=(r'norm[0-3]\.(weight|bias)',),
    ),
    'mmseg VisionTransformer': Case(
        dict(
            type='mmseg.VisionTransformer',
            img_size=32,
            patch_size=8,
            embed_dims=16,
            num_layers=2,
            num_heads=2,
            out_indices=(0, 1),
        ),
        size=32,
        extra=('head.weight',),
    ),
    'mmseg MixVisionTransformer': Case(
        dict(
            type='mmseg.MixVisionTransformer',
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 4],
            drop_path_rate=0.0,
        ),
        extra=('head.weight', 'head.bias'),
    ),
    'mmflora ConvNeXt': Case(
        dict(
            type='mmflora.ConvNeXt',
            arch=dict(depths=(1, 1, 1, 1), dims=(6, 8, 12, 16), use_grn=True),
        ),
        extra=('head.fc.weight',),
        new=(),
    ),
    'timm vision transformer': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='vit_tiny_patch16_224',
            img_size=32,
            patch_size=8,
            embed_dim=16,
            depth=3,
            num_heads=2,
            out_indices=(0, 2),
        ),
        size=32,
        extra=('head.weight', 'norm.bias'),
    ),
    'timm Swin': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='swin_tiny_patch4_window7_224',
            img_size=64,
            window_size=4,
            embed_dim=8,
            depths=(1, 2, 1, 1),
            num_heads=(1, 1, 2, 2),
            drop_path_rate=0.0,
            out_indices=(0, 1, 2, 3),
        ),
        extra=('head.fc.weight',),
    ),
    # Its strided convolutions pad by the size of their input.
    'timm MobileNet': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='tf_mobilenetv3_small_minimal_100',
            out_indices=(1, 2, 3, 4),
        ),
        extra=('classifier.weight', 'classifier.bias'),
    ),
    'timm ResNet': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='resnet18',
            channels=(8, 8, 16, 16),
            stem_width=8,
            out_indices=(1, 2, 3, 4),
        ),
        extra=('fc.weight', 'fc.bias'),
    ),
}


def build(case, base=None, adapter=FLORA, **options):
    config = dict(case.config)
    if base is not None:
        config['init_cfg'] = dict(type='Pretrained', checkpoint=str(base))
    return MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=config,
            adapter=adapter,
            new_params=case.new,
            **case.options,
            **options,
        )
    )


def in_mode(backbone, training=False):
    """Set the mode; ``train()`` and ``eval()`` of mmdet return nothing."""
    backbone.train(training)
    return backbone


def images(case, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, case.size, case.size, generator=generator)
