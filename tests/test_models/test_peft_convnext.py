import pytest
import torch
from mmengine.registry import MODELS

from mmflora.adapters import adapted_layers
from mmflora.models import ConvNeXt, FLoRAConvNeXt, PEFTConvNeXt

SMALL = dict(
    depths=(1, 2, 1, 1), dims=(6, 8, 12, 16), ls_init_value=None, use_grn=True
)


def images():
    return torch.randn(2, 3, 64, 64)


def trained_keys(backbone):
    return {n for n, p in backbone.named_parameters() if p.requires_grad}


def test_keys_are_the_plain_backbones_and_the_adapters():
    plain = ConvNeXt(arch=SMALL)
    backbone = FLoRAConvNeXt(arch=SMALL)
    own = [
        key
        for key in backbone.state_dict()
        if '.adapter.' not in key and key != 'base_record.info'
    ]
    assert own == list(plain.state_dict())
    assert isinstance(backbone, ConvNeXt)


def test_every_convolution_and_linear_layer_is_adapted():
    backbone = FLoRAConvNeXt(arch=SMALL)
    blocks = sum(SMALL['depths'])
    assert len(adapted_layers(backbone)) == 1 + 3 + 3 * blocks


def test_adapters_and_output_norms_train():
    backbone = FLoRAConvNeXt(arch=SMALL)
    norms = {
        f'norm{i}.{name}' for i in range(4) for name in ('weight', 'bias')
    }
    trained = trained_keys(backbone)
    assert {key for key in trained if '.adapter.' not in key} == norms
    assert set(backbone.base_record.new_keys) == norms
    assert not trained & set(backbone.base_record.base_keys)


def test_start_is_the_plain_backbone():
    plain = ConvNeXt(arch=SMALL)
    backbone = FLoRAConvNeXt(arch=SMALL)
    backbone.load_state_dict({**backbone.state_dict(), **plain.state_dict()})
    x = images()
    for feature, wanted in zip(backbone(x), plain(x), strict=True):
        assert torch.equal(feature, wanted)


def test_defaults_are_the_papers():
    backbone = FLoRAConvNeXt(arch=SMALL)
    assert backbone.stages[1].downsample[1].adapter.ranks == (8, 6, 2, 2)
    assert {
        layer.adapter.scale for layer in adapted_layers(backbone).values()
    } == {4.0}


def test_targets_and_options_of_a_configuration():
    backbone = MODELS.build(
        dict(
            type='mmflora.FLoRAConvNeXt',
            arch=SMALL,
            adapter=dict(type='FLoRA', rank=2),
            targets={r'stages\.3\..*': dict(rank=4), '.*': {}},
            exclude=r'stem\..*',
        )
    )
    ranks = {
        name: layer.adapter.ranks[0]
        for name, layer in adapted_layers(backbone).items()
    }
    assert 'stem.0' not in ranks
    assert ranks['stages.3.downsample.1'] == 4
    assert ranks['stages.2.downsample.1'] == 2


def test_frozen_without_adapters():
    backbone = PEFTConvNeXt(arch=SMALL, adapter=None)
    assert adapted_layers(backbone) == {}
    assert all(key.startswith('norm') for key in trained_keys(backbone))


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (dict(arch='convnextv2_atoo'), 'convnextv2_atto'),
        (dict(arch=SMALL, targets='stages'), 'fullmatch'),
        (dict(arch=SMALL, exclude='steam'), 'stem.0'),
        (dict(arch=SMALL, adapter=dict(type='FLoRA', rank=0)), "'stem.0'"),
        (dict(arch=SMALL, adapter=dict(type='Flora')), 'FLoRA'),
        (dict(arch=SMALL, autocast='bf16'), 'bfloat16'),
        (dict(arch=SMALL, out_indices=(4,)), '(0, 1, 2, 3)'),
    ],
    ids=['arch', 'targets', 'exclude', 'rank', 'type', 'autocast', 'indices'],
)
def test_errors_of_a_configuration_reach_the_user(options, part):
    with pytest.raises(ValueError, match='.') as caught:
        MODELS.build(dict(type='mmflora.FLoRAConvNeXt', **options))
    assert part in str(caught.value)


def test_built_on_the_meta_device():
    with torch.device('meta'):
        backbone = FLoRAConvNeXt(arch=SMALL, autocast='bfloat16')
        features = backbone(torch.empty(1, 3, 64, 64))
    assert [feature.shape[1] for feature in features] == [6, 8, 12, 16]
    assert all(feature.is_meta for feature in features)
