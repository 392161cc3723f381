import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmflora.engine import Role, count_parameters, parameter_roles

from .toy import ToyModel, backbone_cfg


def build(model, **paramwise):
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='mmflora.PEFTOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
            paramwise_cfg=paramwise or None,
        ),
    ).optimizer


@pytest.fixture
def model():
    return ToyModel(backbone_cfg())


def settings(optimizer, model):
    """Map each trained parameter's name to (lr, weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for parameter in group['params']
    }


def test_trains_exactly_what_the_contract_says(model):
    trained = set(settings(build(model), model))
    expected = {
        name
        for name, _ in model.named_parameters()
        if not name.startswith('backbone.')
        or '.adapter.' in name
        or name.startswith('backbone.norm')
    }
    assert trained == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == (
        expected
    )


def test_every_parameter_stands_in_one_group(model):
    optimizer = build(model, norm_decay_mult=0.0)
    parameters = [p for g in optimizer.param_groups for p in g['params']]
    assert len(parameters) == len(set(parameters))
    assert all(p.requires_grad for p in parameters)


def test_groups_are_few(model):
    assert len(build(model).param_groups) == 3
    groups = build(model, norm_decay_mult=0.0, bias_decay_mult=0.0)
    assert len(groups.param_groups) == 4


def test_multipliers_by_role(model):
    got = settings(
        build(
            model,
            adapter_lr_mult=2.0,
            adapter_decay_mult=0.5,
            core_lr_mult=3.0,
            head_lr_mult=4.0,
            head_decay_mult=0.1,
        ),
        model,
    )
    assert got['backbone.stem.0.adapter.factors.0'] == (2.0, 0.25)
    assert got['backbone.stem.0.adapter.core'] == (3.0, 0.25)
    assert got['head.weight'] == (4.0, 0.05)
    assert got['backbone.norm3.weight'] == (4.0, 0.05)


def test_norms_and_biases(model):
    got = settings(
        build(
            model, norm_decay_mult=0.0, bias_decay_mult=0.2, bias_lr_mult=2.0
        ),
        model,
    )
    assert got['neck.1.weight'] == (1.0, 0.0)
    assert got['neck.1.bias'] == (1.0, 0.0)
    assert got['backbone.norm0.weight'] == (1.0, 0.0)
    assert got['head.bias'] == (2.0, 0.1)
    assert got['head.weight'] == (1.0, 0.5)


def test_longest_custom_key_counts(model):
    got = settings(
        build(
            model,
            head_lr_mult=9.0,
            custom_keys={
                'head': dict(lr_mult=2.0),
                'head.bias': dict(lr_mult=3.0, decay_mult=0.0),
                'stages.3': dict(lr_mult=0.5),
            },
        ),
        model,
    )
    assert got['head.weight'] == (2.0, 0.5)
    assert got['head.bias'] == (3.0, 0.0)
    name = 'backbone.stages.3.blocks.0.mlp.fc1.adapter.core'
    assert got[name] == (0.5, 0.5)
    assert got['neck.0.weight'] == (9.0, 0.5)


def test_a_head_may_freeze_its_own(model):
    model.head.bias.requires_grad_(False)
    assert 'head.bias' not in settings(build(model), model)


def test_unfrozen_base_is_frozen_again(model):
    model.backbone.requires_grad_(True)
    trained = settings(build(model), model)
    assert 'backbone.stem.0.weight' not in trained
    assert not model.backbone.stem[0].weight.requires_grad


def test_unknown_entry_is_refused(model):
    with pytest.raises(ValueError, match='dwconv_lr_mult.*Allowed are'):
        build(model, dwconv_lr_mult=0.0)


def test_model_without_a_frozen_base_is_refused():
    with pytest.raises(ValueError, match='no backbone with a frozen base'):
        build(nn.Linear(2, 2))


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('change', ['unfrozen base', 'frozen adapter'])
def test_change_after_wrapping_is_refused(model, process_group, change):
    layer = model.backbone.stem[0]
    if change == 'unfrozen base':
        layer.weight.requires_grad_(True)
    else:
        layer.adapter.core.requires_grad_(False)
    wrapped = MMDistributedDataParallel(model)
    with pytest.raises(RuntimeError, match='already wrapped'):
        build(wrapped)


def test_wrapped_model_as_built_is_accepted(model, process_group):
    wrapped = MMDistributedDataParallel(model)
    assert settings(build(wrapped), model) == settings(build(model), model)


def test_counts_add_up(model):
    rows = count_parameters(model)
    total = sum(p.numel() for p in model.parameters())
    assert rows['total'].total == total
    assert rows['total'].trainable == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    parts = [
        row
        for name, row in rows.items()
        if name != 'total' and ': ' not in name
    ]
    assert sum(row.total for row in parts) == total
    assert rows['backbone'].layers == rows['backbone: adapters'].layers == 16
    assert rows['backbone: frozen base'].trainable == 0


def test_roles_cover_every_parameter_once(model):
    items = list(parameter_roles(model))
    assert [item.name for item in items] == [
        name for name, _ in model.named_parameters()
    ]
    cores = [item for item in items if item.role is Role.CORE]
    assert len(cores) == 16
