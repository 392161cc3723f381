"""A second injection, plain merged models, and taking adapters off."""

import copy

import pytest
import torch
from inject_cases import Net
from method_cases import METHODS, randomise
from timm.models.convnext import ConvNeXt
from torch import nn

from mmflora.adapters import (
    adapted_modules,
    disabled,
    inject,
    merge,
    merge_for_good,
    unload,
)


def convnext():
    return ConvNeXt(
        depths=(1, 1, 1, 1),
        dims=(8, 12, 16, 20),
        use_grn=True,
        ls_init_value=None,
        num_classes=0,
    ).eval()


class Mixed(nn.Module):
    """Every kind of method finds something in it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.conv(x).movedim(1, -1))
        return self.head(self.mlp(x))


def trained(model):
    return {n for n, p in model.named_parameters() if p.requires_grad}


def snapshot(model):
    """Return all that tells a plain model from one that was adapted."""
    return [
        (
            name,
            type(module),
            sorted(vars(module)),
            list(module._forward_hooks.values()),
            list(module._forward_hooks_with_kwargs),
            [
                (key, p.requires_grad, p.dtype)
                for key, p in module._parameters.items()
                if p is not None
            ],
        )
        for name, module in model.named_modules()
    ]


def test_a_second_injection_leaves_the_first_trainable():
    net = Net()
    inject(net, dict(type='FLoRA', rank=2), 'stem')
    inject(net, dict(type='BitFit'), r'blocks\..*')
    first = trained(net)
    assert any(name.startswith('stem.adapter') for name in first)
    assert 'blocks.0.norm.bias' in first
    report = inject(net, dict(type='LoRA', rank=2), ['up', r'blocks\.0\.fc1'])
    assert report.adapted == ['blocks.0.fc1', 'up']
    second = trained(net)
    assert first < second
    assert all(
        name.startswith(('up.adapter', 'blocks.0.fc1.adapter'))
        for name in second - first
    )


@pytest.mark.parametrize('within', ['whole first', 'part first'])
def test_injections_of_a_model_and_of_a_part_of_it(within):
    net = nn.ModuleDict(dict(backbone=Net(), head=nn.Linear(4, 2)))
    order = [(net, r'backbone\.stem'), (net['backbone'], 'up')]
    for model, target in order if within == 'whole first' else order[::-1]:
        inject(model, dict(type='FLoRA', rank=2), target)
    assert trained(net) == {
        name for name, _ in net.named_parameters() if '.adapter.' in name
    }
    assert len(adapted_modules(net)) == 2


@pytest.mark.parametrize(
    ('first', 'second', 'name'),
    [
        ('LoRA', 'DoRA', 'conv'),
        ('BitFit', 'Full', 'conv'),
        ('Houlsby', 'Pfeiffer', 'mlp'),
    ],
)
def test_a_part_that_has_one_is_named(first, second, name):
    model = Mixed()
    inject(model, METHODS[first], name)
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"'{name}' already .*{first}"):
        inject(model, METHODS[second])
    assert snapshot(model) == before


@pytest.mark.parametrize('second', ['BitFit', 'LoRA'])
def test_a_layer_may_have_an_adapter_and_a_bias_that_trains(second):
    both = dict(LoRA=METHODS['LoRA'], BitFit=METHODS['BitFit'])
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 1)).double()
    inject(model, both.pop('LoRA' if second == 'BitFit' else 'BitFit'))
    inject(model, both[second])
    inputs = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    model(inputs).sum().backward()
    biases = [model[0].bias.grad, model[1].bias.grad]
    assert all(grad is not None and grad.any() for grad in biases)
    assert model[0].adapter.up.grad.any()
    assert model[0].weight.grad is None


@pytest.mark.parametrize('lean', [False, True], ids=['norms', 'lean'])
@pytest.mark.parametrize('merged_by', [merge, merge_for_good])
def test_a_merged_model_is_plain(lean, merged_by):
    stock, images = convnext(), torch.randn(2, 3, 64, 64)
    model = copy.deepcopy(stock)
    inject(model, dict(type='FLoRA', rank=2), lean=lean)
    randomise(model, 0.1)
    before, expected = snapshot(model), model(images)
    way_back = merged_by(model)
    for (_, *ours), (_, *theirs) in zip(
        snapshot(model)[1:], snapshot(stock)[1:], strict=True
    ):
        assert ours[:-1] == theirs[:-1]
    assert list(model.state_dict()) == list(stock.state_dict())
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    if merged_by is merge:
        way_back.unmerge()
        assert snapshot(model) == before
        assert torch.equal(model(images), expected)


@pytest.mark.parametrize('lean', [False, True], ids=['norms', 'lean'])
@pytest.mark.parametrize('method', METHODS)
def test_unloaded_is_as_before_injection(method, lean):
    model = Mixed()
    model.conv.bias.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    before = snapshot(model)
    inject(model, METHODS[method], lean=lean)
    assert snapshot(model) != before
    if method not in ('Full', 'BitFit', 'NormTuning'):
        randomise(model)
    with disabled(model):
        unload(model)
    assert snapshot(model) == before
    assert list(model.state_dict()) == list(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_unloading_what_several_injections_made_of_half_precision():
    model = nn.ModuleDict(dict(a=Mixed(), b=Mixed())).bfloat16()
    before = snapshot(model)
    inject(model['a'], dict(type='BitFit'))
    inject(model, dict(type='LoRA'), r'.\.head', lean=True)
    inject(model, dict(type='Houlsby', width=2), exclude='a.mlp')
    unload(model)
    assert snapshot(model) == before
    with pytest.raises(ValueError, match='ModuleDict has no adapter'):
        unload(model)


def test_a_merged_model_is_unloaded_to_one_that_trains():
    model = Mixed()
    names = trained(model)
    inject(model, dict(type='LoRA'))
    randomise(model)
    images = torch.randn(1, 3, 4, 4)
    merge(model)
    expected = model(images)
    unload(model)
    assert trained(model) == names
    assert torch.equal(model(images), expected)
