"""The classes of the module beside a plain config."""

import pytest
import torch
from mmengine.registry import MODELS
from timm.layers import grn as timm_grn

from mmflora.adapters.memory.response_norm import GlobalResponseNorm
from mmflora.models import ConvNeXt
from mmflora.models.plain.timm_features import TimmConvNeXt

TINY = dict(depths=(1, 2, 1, 1), dims=(6, 8, 12, 16), use_grn=True)
CASES = {
    'grn': dict(arch=TINY),
    'layer scale': dict(arch=dict(TINY, use_grn=False)),
    'named': dict(arch='convnextv2_atto'),
    'two stages': dict(arch=TINY, out_indices=(0, 2)),
    'channels last': dict(arch=TINY, channels_last=True),
    'checkpointed': dict(arch=TINY, with_cp=True),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def pair(request):
    """Build mmflora's class and the plain one with the same weights."""
    torch.manual_seed(0)
    ours = ConvNeXt(**request.param).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain = TimmConvNeXt(**request.param).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    return ours, plain


def test_features_are_equal(pair):
    ours, plain = pair
    images = torch.randn(2, 3, 64, 96)
    for found, wanted in zip(plain(images), ours(images), strict=True):
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    # mmflora's response norm rounds otherwise; all else is the same.
    for module in ours.modules():
        if type(module) is GlobalResponseNorm:
            module.__class__ = timm_grn.GlobalResponseNorm
    for found, wanted in zip(plain(images), ours(images), strict=True):
        assert torch.equal(found, wanted)
        assert wanted.std() > 0


def test_gradients_are_equal(pair):
    ours, plain = pair
    images = torch.randn(1, 3, 64, 64)
    for model in pair:
        sum(feature.square().sum() for feature in model(images)).backward()
    wanted = dict(ours.named_parameters())
    for name, parameter in plain.named_parameters():
        scale = wanted[name].grad.abs().max()
        assert scale > 0
        off = (parameter.grad - wanted[name].grad).abs().max()
        assert off < 1e-4 * scale, name


@pytest.mark.parametrize(
    ('name', 'indices'),
    [('resnet18', (1, 4)), ('vit_tiny_patch16_224', (5, 11))],
)
def test_timm_intermediates(name, indices):
    settings = dict(model_name=name, out_indices=indices)
    ours = MODELS.build(dict(type='mmflora.TimmBackbone', **settings)).eval()
    plain = MODELS.build(dict(type='TimmIntermediates', **settings)).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        outputs = zip(plain(images), ours(images), strict=True)
        for found, wanted in outputs:
            assert torch.equal(found, wanted)
            assert found.is_contiguous()
