from mmengine.registry import MODELS

from mmflora.adapters import adapted_layers
from mmflora.models import FLoRAConvNeXt

SMALL = dict(
    depths=(1, 2, 1, 1), dims=(6, 8, 12, 16), ls_init_value=None, use_grn=True
)


def trained_keys(backbone):
    return {n for n, p in backbone.named_parameters() if p.requires_grad}


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


def test_defaults_are_the_papers():
    backbone = FLoRAConvNeXt(arch=SMALL)
    assert backbone.stages[1].downsample[1].adapter.ranks == (8, 6, 2, 2)
    assert {
        layer.adapter.scale for layer in adapted_layers(backbone).values()
    } == {4.0}


def test_none_is_a_frozen_backbone():
    backbone = FLoRAConvNeXt(arch=SMALL, peft=dict(adapter=None))
    assert not adapted_layers(backbone)
    assert {key.split('.')[0][:4] for key in trained_keys(backbone)} == {
        'norm'
    }


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
