"""Models with adapters over a small ConvNeXt-V2, and plain weights."""

import pytest
import torch
from convnext_files import V2, stock_net
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from mmflora.models import FLoRAConvNeXt

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Detector(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.backbone = FLoRAConvNeXt(**options)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, images):
        return self.head(self.backbone(images)[-1])


class Bare(FLoRAConvNeXt):
    def forward(self, images):
        return super().forward(images)[-1]


MODELS = dict(detector=Detector, backbone=Bare)


def record_of(model):
    return getattr(model, 'backbone', model).base_record


def pretrained(path):
    return dict(type='Pretrained', checkpoint=str(path))


def build(kind, base=None, **options):
    options = dict(arch=V2, adapter=dict(type='FLoRA', rank=2)) | options
    config = None if base is None else pretrained(base)
    return kind(init_cfg=config, **options)


def plain_state(seed=7):
    """Return a stock detector: whole base, norms of outputs, and a head."""
    net = stock_net(V2, seed=seed)
    return {
        key: value
        for key, value in net.state_dict().items()
        if not key.startswith('head.')
    }


def prefixed(kind, state):
    prefix = 'backbone.' if kind is Detector else ''
    return {prefix + key: value for key, value in state.items()}


def refused(error, model, state):
    with pytest.raises(error) as caught:
        model.load_state_dict(state, strict=False)
    with pytest.raises(error):
        mmengine_checkpoint.load_state_dict(model, state, strict=False)
    return str(caught.value)
