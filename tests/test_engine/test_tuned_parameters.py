"""Optimizer groups of methods that train the base's own parameters."""

import pytest
from mmengine.registry import MODELS
from timm.optim import param_groups_layer_decay

from mmflora.engine import Role, count_parameters, parameter_roles

from .test_optimizer import build, settings
from .toy import TINY, ToyModel


def toy(adapter, **options):
    return ToyModel(
        dict(
            type='mmflora.PEFTConvNeXt', arch=TINY, adapter=adapter, **options
        )
    )


def roles(model):
    return {item.name: item.role for item in parameter_roles(model)}


def test_roles_of_tuned_parameters():
    model = toy(
        dict(type='LoRA', rank=2),
        targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}},
    )
    got = roles(model)
    block = 'backbone.stages.0.blocks.0'
    assert got[f'{block}.conv_dw.weight'] is Role.TUNED
    assert got[f'{block}.conv_dw.bias'] is Role.TUNED
    assert got[f'{block}.mlp.fc1.weight'] is Role.BASE
    assert got[f'{block}.mlp.fc1.adapter.up'] is Role.CORE
    assert got[f'{block}.mlp.fc1.adapter.down'] is Role.ADAPTER
    assert got['backbone.norm0.weight'] is Role.NEW
    assert got['head.weight'] is Role.HEAD
    assert {item.role for item in parameter_roles(model) if item.trains} == (
        set(Role) - {Role.BASE}
    )


def test_full_trains_everything():
    model = toy(dict(type='Full'))
    assert set(settings(build(model), model)) == set(
        dict(model.named_parameters())
    )
    assert Role.BASE not in roles(model).values()


def test_bottlenecks_of_blocks_are_adapters():
    model = toy(dict(type='Houlsby', width=2))
    got = roles(model)
    block = 'backbone.stages.0.blocks.0.mlp.adapter'
    assert got[f'{block}.down'] is got[f'{block}.up_bias'] is Role.ADAPTER
    assert got[f'{block}.up'] is Role.CORE
    rows = count_parameters(model)
    assert rows['backbone'].layers == 4
    assert rows['backbone: adapters'].trainable == sum(
        p.numel() for n, p in model.named_parameters() if '.adapter.' in n
    )


def test_multipliers_of_tuned_parameters():
    model = toy(dict(type='Full'))
    got = settings(
        build(
            model,
            tuned_lr_mult=0.1,
            tuned_decay_mult=0.5,
            norm_decay_mult=0.0,
            bias_decay_mult=0.0,
            bias_lr_mult=2.0,
            adapter_lr_mult=7.0,
            head_lr_mult=3.0,
        ),
        model,
    )
    block = 'backbone.stages.0.blocks.0'
    near = pytest.approx
    assert got[f'{block}.conv_dw.weight'] == near((0.1, 0.25))
    assert got[f'{block}.conv_dw.bias'] == near((0.2, 0.0))
    assert got[f'{block}.norm.weight'] == near((0.1, 0.0))
    assert got[f'{block}.norm.bias'] == near((0.1, 0.0))
    assert got[f'{block}.mlp.grn.weight'] == near((0.1, 0.0))
    assert got['backbone.norm0.weight'] == near((3.0, 0.0))
    assert got['head.weight'] == near((3.0, 0.5))


def test_the_table_counts_them_apart():
    model = toy(dict(type='BitFit'))
    rows = count_parameters(model)
    tuned, base = rows['backbone: tuned base'], rows['backbone: frozen base']
    biases = [
        p.numel()
        for n, p in model.backbone.named_parameters()
        if n.endswith('.bias') and not n.startswith('norm')
    ]
    assert tuned.trainable == tuned.total == sum(biases)
    assert base.trainable == 0
    assert 'backbone: adapters' not in rows


def test_a_change_of_a_tuned_parameter_is_undone():
    model = toy(dict(type='BitFit'))
    model.backbone.stem[0].bias.requires_grad_(False)
    assert 'backbone.stem.0.bias' in settings(build(model), model)


def test_layer_decay_is_timms():
    model = toy(dict(type='Full'))
    got = settings(build(model, layer_decay=0.5), model)
    plain = MODELS.build(dict(type='mmflora.ConvNeXt', arch=TINY))
    groups = param_groups_layer_decay(plain, layer_decay=0.5)
    names = {parameter: name for name, parameter in plain.named_parameters()}
    scales = {
        names[parameter]: group['lr_scale']
        for group in groups
        for parameter in group['params']
    }
    assert len(set(scales.values())) > 4
    for name, scale in scales.items():
        assert got[f'backbone.{name}'][0] == pytest.approx(scale)
    assert got['head.weight'][0] == 1.0


def test_adapters_decay_with_the_layer_that_they_adapt():
    model = toy(dict(type='LoRA', rank=2))
    full = toy(dict(type='Full'))
    expected = settings(build(full, layer_decay=0.5), full)
    got = settings(build(model, layer_decay=0.5, adapter_lr_mult=4.0), model)
    block = 'stages.3.blocks.0.conv_dw'
    for name in ('stem.0', 'stages.0.blocks.0.mlp.fc1', block):
        rate = expected[f'backbone.{name}.weight'][0]
        assert got[f'backbone.{name}.adapter.up'][0] == pytest.approx(4 * rate)


def test_layer_decay_of_timms_backbones():
    model = ToyModel(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(
                type='mmflora.TimmBackbone',
                model_name='vit_tiny_patch16_224',
                img_size=32,
                embed_dim=32,
                depth=2,
                num_heads=2,
                out_indices=(0, 1),
            ),
            adapter=dict(type='Full'),
        )
    )
    got = settings(build(model, layer_decay=0.5), model)
    rates = [
        got[f'backbone.{name}'][0]
        for name in (
            'patch_embed.proj.weight',
            'blocks.0.attn.qkv.weight',
            'blocks.1.attn.qkv.weight',
        )
    ]
    assert rates == [0.25, 0.5, 1.0]


def test_layer_decay_without_groups_is_refused():
    import mmdet.models  # noqa: F401

    model = ToyModel(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(type='mmdet.ResNet', depth=18),
            adapter=dict(type='Full'),
        )
    )
    with pytest.raises(ValueError, match='no group_matcher') as caught:
        build(model, layer_decay=0.9)
    assert 'ResNet' in str(caught.value)


@pytest.mark.parametrize('decay', [0.0, -0.5, 1.5])
def test_layer_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r'\(0, 1\]'):
        build(toy(dict(type='Full')), layer_decay=decay)
