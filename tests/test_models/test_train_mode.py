"""Frozen stages and batch statistics: what `train()` may not do."""

import copy
import pickle

import pytest
import torch
from backbone_cases import CASES, FLORA, RESNET, in_mode
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmflora.adapters import adapted_layers
from mmflora.models import PEFTOptions, adapt_backbone

LOOSE = dict(RESNET, norm_eval=False)


def small(adapter=FLORA, peft=(), **options):
    return MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(LOOSE, **options),
            peft=dict(adapter=adapter, **dict(peft)),
        )
    )


def step(backbone):
    """Take a forward pass in training, as a detector's `train()` asks."""
    whole = nn.ModuleDict(dict(backbone=backbone)).train()
    whole['backbone'](torch.randn(2, 3, 32, 32) + 1)
    return statistics(backbone)


def statistics(backbone):
    return {
        key: value.clone()
        for key, value in backbone.named_buffers()
        if 'running' in key or 'tracked' in key
    }


def moved(before, after):
    return {
        key.rpartition('.')[0]
        for key in before
        if not torch.equal(before[key], after[key])
    }


@pytest.mark.parametrize(
    'adapter',
    [None, FLORA, dict(type='NormTuning'), dict(type='BitFit')],
    ids=['none', 'FLoRA', 'NormTuning', 'BitFit'],
)
def test_statistics_of_a_frozen_base_are_kept(adapter, log_text):
    backbone = small(adapter)
    before = statistics(backbone)
    assert len(before) == 60
    assert not moved(before, step(backbone))
    assert '20 batch norms of the base keep their statistics' in log_text()
    if adapter == dict(type='NormTuning'):
        assert backbone.layer1[0].bn1.weight.requires_grad


@pytest.mark.parametrize(
    'copied',
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        nn.SyncBatchNorm.convert_sync_batchnorm,
    ],
    ids=['copy', 'pickle', 'SyncBN'],
)
def test_statistics_are_kept_by_what_takes_its_place(copied):
    backbone = copied(small())
    before = statistics(backbone)
    whole = nn.ModuleDict(dict(backbone=backbone)).train()
    assert backbone.training
    backbone(torch.randn(2, 3, 32, 32))
    assert whole.training
    assert not moved(before, statistics(backbone))


@pytest.mark.parametrize('name', ['vgg11_bn', 'densenet121'])
@pytest.mark.parametrize(
    'copied',
    [lambda model: model, nn.SyncBatchNorm.convert_sync_batchnorm],
    ids=['as it is', 'SyncBN'],
)
def test_statistics_are_kept_where_layers_are_called_one_by_one(name, copied):
    backbone = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(
                type='mmflora.TimmBackbone',
                model_name=name,
                out_indices=(2, 3),
            ),
            peft=dict(adapter=dict(type='BitFit')),
        )
    )
    backbone = copied(backbone)
    before = statistics(backbone)
    assert before
    assert not moved(before, step(backbone))


def test_statistics_may_move(log_text):
    backbone = small(peft=dict(norm_eval=False))
    before = statistics(backbone)
    assert len(moved(before, step(backbone))) == 20
    assert 'may move their statistics' in log_text()
    held = small(peft=dict(norm_eval=False), norm_eval=True)
    assert not moved(before, step(held))


def test_statistics_of_what_trains_in_full_move():
    mixed = dict(targets={r'layer4\..*': dict(type='Full'), '.*': {}})
    new = dict(new_params=r'bn1\.(weight|bias)')
    backbone = small(peft=mixed | new)
    got = moved(statistics(backbone), step(backbone))
    layer4 = {n for n, m in backbone.named_modules() if 'layer4' in n}
    assert got == {n for n in layer4 if 'bn' in n or 'sample.1' in n} | {'bn1'}


def test_statistics_of_what_trains_in_full_can_be_kept():
    kept = small(dict(type='Full'), dict(norm_eval=True))
    assert all(p.requires_grad for p in kept.parameters())
    assert not moved(statistics(kept), step(kept))
    usual = small(dict(type='Full'))
    assert len(moved(statistics(usual), step(usual))) == 20


@pytest.mark.parametrize(
    ('method', 'decay'), [('NormTuning', 0.0), ('Full', 0.5)]
)
def test_tuned_norms_train_on_as_synchronized_ones(method, decay):
    backbone = small(dict(type=method))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.ModuleDict(dict(backbone=backbone))
    )
    optimizer = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='mmflora.PEFTOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
        ),
    ).optimizer
    norm = model['backbone'].layer1[0].bn1
    assert isinstance(norm, nn.SyncBatchNorm)
    groups = [
        group
        for group in optimizer.param_groups
        if any(norm.weight is parameter for parameter in group['params'])
    ]
    assert [group['weight_decay'] for group in groups] == [decay]


SWIN = CASES['mmdet SwinTransformer'].config
STAGED = {
    'ResNet': dict(RESNET, frozen_stages=1),
    'Swin': dict(SWIN, frozen_stages=2),
    'RegNet': dict(type='mmdet.RegNet', arch='regnetx_400mf', frozen_stages=0),
    'MobileNetV2': dict(
        type='mmseg.MobileNetV2', widen_factor=0.25, frozen_stages=3
    ),
    'CSPDarknet': dict(
        type='mmdet.CSPDarknet', widen_factor=0.125, frozen_stages=4
    ),
}


@pytest.mark.parametrize('method', [FLORA, dict(type='Full')], ids=str)
@pytest.mark.parametrize('name', STAGED)
def test_frozen_stages_leave_adapters_alone(name, method, log_text):
    backbone = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=STAGED[name],
            peft=dict(adapter=method),
        )
    )
    trains = {n for n, p in backbone.named_parameters() if p.requires_grad}
    in_mode(backbone, True)
    assert trains == {
        n for n, p in backbone.named_parameters() if p.requires_grad
    }
    assert trains >= set(backbone.base_record.tuned_keys)
    for key, layer in adapted_layers(backbone).items():
        assert all(p.requires_grad for p in layer.adapter.parameters()), key
    stages = STAGED[name]['frozen_stages']
    assert f'frozen_stages={stages} becomes -1' in log_text()


def test_frozen_stages_without_adapters_in_them():
    away = dict(exclude=[r'conv1', r'layer1\..*'])
    backbone = in_mode(small(peft=away, frozen_stages=1), True)
    assert backbone.frozen_stages == 1
    assert not backbone.bn1.training
    assert all(
        parameter.requires_grad
        for layer in adapted_layers(backbone).values()
        for parameter in layer.adapter.parameters()
    )


class Stubborn(nn.Module):
    """Freezes its convolution by itself, with adapter and all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def train(self, mode=True):
        super().train(mode)
        self.requires_grad_(False)


def test_other_ways_to_freeze_are_refused():
    with pytest.raises(ValueError, match=r'train\(\) freezes.*conv\.adapter'):
        adapt_backbone(Stubborn(), PEFTOptions(FLORA))
