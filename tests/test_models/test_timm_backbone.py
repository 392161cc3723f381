import copy
import logging

import pytest
import timm
import torch

from mmflora.models import build_timm_backbone

# Name, arguments that make it small, and the intermediate features to take.
NETS = {
    'vision transformer': (
        'vit_tiny_patch16_224',
        dict(img_size=64, embed_dim=16, depth=3, num_heads=2),
        (0, 2),
    ),
    'Swin': (
        'swin_tiny_patch4_window7_224',
        dict(
            img_size=64,
            window_size=4,
            embed_dim=8,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
        ),
        (0, 1, 2, 3),
    ),
    'ResNet': (
        'resnet18',
        dict(channels=(8, 8, 16, 16), stem_width=8),
        (2, 4),
    ),
    'ConvNeXt': (
        'convnextv2_atto',
        dict(depths=(1, 1, 1, 1), dims=(6, 8, 12, 16), conv_mlp=False),
        (1, 3),
    ),
}


@pytest.fixture(params=NETS.values(), ids=NETS)
def net(request):
    return request.param


def images():
    return torch.randn(2, 3, 64, 64)


def test_features_equal_timms(net):
    name, options, indices = net
    backbone = build_timm_backbone(name, indices, **options).eval()
    plain = timm.create_model(name, **options).eval()
    result = plain.load_state_dict(backbone.state_dict(), strict=False)
    assert result.unexpected_keys == []
    x = images()
    expected = plain.forward_intermediates(
        x, indices=list(indices), intermediates_only=True
    )
    features = backbone(x)
    assert isinstance(features, tuple)
    assert len(features) == len(indices)
    for feature, wanted in zip(features, expected, strict=True):
        assert feature.shape[:2] == wanted.shape[:2]
        assert torch.equal(feature, wanted)
        # mmcv's RoIAlign reads memory as if it were contiguous.
        assert feature.is_contiguous()


def test_class_name_and_keys_are_timms(net):
    name, options, indices = net
    backbone = build_timm_backbone(name, indices, **options)
    plain = timm.create_model(name, **options)
    assert type(backbone).__name__ == type(plain).__name__
    assert isinstance(backbone, type(plain))
    assert set(backbone.state_dict()) < set(plain.state_dict())


@pytest.mark.parametrize('init', [True, False], ids=['init_cfg', 'no init'])
def test_init_weights_loads_or_keeps(net, init, tmp_path):
    name, options, indices = net
    plain = timm.create_model(name, **options)
    path = tmp_path / 'base.pth'
    torch.save(plain.state_dict(), path)
    config = dict(type='Pretrained', checkpoint=str(path)) if init else None
    backbone = build_timm_backbone(name, indices, init_cfg=config, **options)
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    expected = plain.state_dict() if init else before
    after = backbone.state_dict()
    assert all(torch.equal(after[key], expected[key]) for key in after)


def messages(caplog, path):
    backbone = build_timm_backbone(
        'resnet18',
        (2, 4),
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
        **NETS['ResNet'][1],
    )
    caplog.clear()
    backbone.init_weights()
    return [r.getMessage() for r in caplog.records if r.levelno >= 30]


@pytest.mark.usefixtures('log_text')
def test_keys_that_do_not_fit_are_logged(caplog, tmp_path):
    state = timm.create_model('resnet18', **NETS['ResNet'][1]).state_dict()
    path = tmp_path / 'base.pth'
    torch.save(state, path)
    assert messages(caplog, path) == []

    state['extra.weight'] = state.pop('layer1.0.conv1.weight')
    torch.save(state, path)
    text = ''.join(messages(caplog, path))
    assert 'extra.weight' in text
    assert 'layer1.0.conv1.weight' in text
    assert 'fc.' not in text


def test_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match='resnet18') as caught:
        build_timm_backbone('resnet_18', (1, 2))
    assert "'resnet_18'" in str(caught.value)


def test_model_without_intermediate_features(monkeypatch):
    monkeypatch.setattr(
        timm, 'create_model', lambda *_, **__: torch.nn.Linear(2, 2)
    )
    with pytest.raises(ValueError, match='no intermediate features'):
        build_timm_backbone('resnet18', (1, 2))


def test_copies(net, copy_of):
    name, options, indices = net
    backbone = build_timm_backbone(name, indices, **options).eval()
    other = copy_of(copy_of(backbone))
    x = images()
    assert type(other).__name__ == type(backbone).__name__
    assert other.out_indices == indices
    for feature, wanted in zip(other(x), backbone(x), strict=True):
        assert torch.equal(feature, wanted)


def test_dropped_layers_are_known_as_unused():
    backbone = build_timm_backbone('resnet18', (1, 2), **NETS['ResNet'][1])
    assert r'fc\.weight' in backbone.unused_keys
    assert r'layer4\.0\.conv1\.weight' in backbone.unused_keys
    assert not any(key.startswith('layer3') for key in backbone.state_dict())


def test_logging_level_is_left_alone():
    level = logging.getLogger('timm').level
    build_timm_backbone('resnet18', (1,), **NETS['ResNet'][1])
    assert logging.getLogger('timm').level == level
