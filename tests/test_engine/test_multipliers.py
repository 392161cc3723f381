"""What `paramwise_cfg` may hold, and what weight decay leaves alone."""

import pytest
from mmengine.optim import build_optim_wrapper

from .test_optimizer import build, settings
from .test_tuned_parameters import toy
from .toy import ToyModel, backbone_cfg

BLOCK = 'backbone.stages.0.blocks.0.mlp.fc1.adapter'


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(adapter_lr_mul=2), ValueError, "mean 'adapter_lr_mult'"),
        (dict(custom_keys=dict(head=dict(lr_mul=2))), ValueError, "'lr_mult'"),
        (dict(custom_keys=dict(head=0.1)), TypeError, "'head' is a dict"),
        (dict(custom_keys=['head']), TypeError, 'custom_keys'),
        (dict(head_lr_mult=-1), ValueError, 'at least 0.*head_lr_mult=-1'),
        (dict(head_lr_mult=float('nan')), ValueError, 'finite'),
        (dict(norm_decay_mult='0'), TypeError, "norm_decay_mult='0'"),
        (dict(bias_lr_mult=True), TypeError, 'bias_lr_mult=True'),
        (dict(layer_decay='0.9'), TypeError, "layer_decay='0.9'"),
        (dict(layer_decay=True), TypeError, 'layer_decay=True'),
        (
            dict(custom_keys=dict(head=dict(decay_mult=None))),
            TypeError,
            "'head'.*decay_mult=None",
        ),
        (
            dict(custom_keys=dict(haed=dict(lr_mult=2))),
            ValueError,
            "'haed' is part of no.*head",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(options, error, message):
    with pytest.raises(error, match=message):
        build(ToyModel(backbone_cfg()), **options)


def test_multipliers_without_effect_are_said(log_text):
    build(
        ToyModel(backbone_cfg()),
        tuned_lr_mult=3.0,
        head_lr_mult=2.0,
        norm_decay_mult=1.0,
        custom_keys={'stem.0.weight': dict(lr_mult=2.0)},
    )
    line = log_text().split('no parameter that trains')[1].splitlines()[0]
    assert 'tuned_lr_mult=3.0' in line
    assert 'stem.0.weight' in line
    assert 'head_lr_mult' not in line
    assert 'norm_decay' not in line


@pytest.mark.parametrize(
    ('method', 'steady', 'decaying'),
    [
        (dict(type='SSF'), {'scale'}, {'shift'}),
        (dict(type='DoRA', rank=2), {'magnitude'}, {'up', 'down'}),
        (dict(type='PiSSA', rank=2), {'up', 'down'}, set()),
        (dict(type='LoRA', rank=2), set(), {'up', 'down'}),
    ],
    ids=lambda value: value.get('type') if isinstance(value, dict) else '',
)
def test_decay_pulls_towards_the_frozen_layer(method, steady, decaying):
    model = toy(method)
    got = settings(build(model), model)
    for names, decay in ((steady, 0.0), (decaying, 0.5)):
        assert {got[f'{BLOCK}.{name}'][1] for name in names} <= {decay}
    key = f'adapter.{next(iter(steady or decaying))}'
    got = settings(build(model, custom_keys={key: dict(lr_mult=2.0)}), model)
    assert got[f'{BLOCK}.{key[8:]}'] == (2.0, 0.0 if steady else 0.5)
    got = settings(
        build(model, custom_keys={key: dict(decay_mult=0.1)}), model
    )
    assert got[f'{BLOCK}.{key[8:]}'] == (1.0, 0.05)


@pytest.mark.parametrize(
    ('method', 'decay'), [('BitFit', 0.0), ('NormTuning', 0.0), ('Full', 0.5)]
)
def test_decay_of_tuned_parameters(method, decay):
    model = toy(dict(type=method))
    got = settings(build(model), model)
    bias = 'backbone.stages.0.blocks.0.norm.bias'
    assert got[bias] == (1.0, decay)
    assert got['head.bias'] == (1.0, 0.5)


def test_flat_parameters_are_those_of_norms_too():
    model = ToyModel(backbone_cfg())
    got = settings(build(model, flat_decay_mult=0.0), model)
    assert {got[name][1] for name in ('neck.1.weight', 'head.bias')} == {0.0}
    assert got['head.weight'][1] == 0.5
    got = settings(
        build(model, flat_decay_mult=0.0, norm_decay_mult=0.1), model
    )
    assert got['neck.1.weight'][1] == 0.05


def test_multipliers_count_for_the_optimizers_own_defaults():
    model = toy(dict(type='DoRA', rank=2))
    wrapper = dict(
        type='OptimWrapper',
        constructor='mmflora.PEFTOptimWrapperConstructor',
        optimizer=dict(type='AdamW'),  # lr 1e-3, weight decay 1e-2
        paramwise_cfg=dict(head_lr_mult=0.1, adapter_decay_mult=0.5),
    )
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    got = settings(optimizer, model)
    assert got[f'{BLOCK}.magnitude'] == (1e-3, 0.0)
    assert got[f'{BLOCK}.up'] == (1e-3, 5e-3)
    assert got['head.weight'] == (1e-4, 1e-2)
