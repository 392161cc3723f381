"""What the tests of networks beside a backbone share."""

import torch
from backbone_cases import CASES, build, in_mode

from mmflora.adapters import disabled

EXACT = dict(rtol=1e-10, atol=1e-12)
LADDER = dict(type='Ladder', reduction=4)
E3VA = dict(type='E3VA', rank=2)
BACKBONES = (
    'mmflora ConvNeXt',
    'mmdet SwinTransformer',
    'mmseg VisionTransformer',
    'timm vision transformer',
    'timm Swin',
)


def of(name, adapter):
    """Return a small backbone with a network beside it."""
    torch.manual_seed(0)
    net = build(CASES[name], None, adapter, allow_random_base=True)
    return in_mode(net)


def randomise(net, spread=0.3):
    """Move the network beside a backbone away from its start."""
    with torch.no_grad():
        for parameter in net.adapter.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return net


def plain(net, pictures):
    """Return what the frozen backbone gives."""
    with disabled(net):
        return net(pictures)
