"""Layers whose weight is computed from a parameter of another module."""

import copy

import pytest
import torch
from method_cases import WEIGHT_METHODS, randomise
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from mmflora.adapters import adapted_layers, inject, merge, unload

EXACT = dict(rtol=1e-9, atol=1e-11)
CASES = {
    'weight norm': (parametrizations.weight_norm, 'original1'),
    'spectral norm': (parametrizations.spectral_norm, 'original'),
}


class Head(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.fc = norm(nn.Linear(6, 4))
        self.conv = norm(nn.Conv2d(3, 6, 3, groups=3, bias=False))

    def forward(self, x):
        return self.fc(self.conv(x).movedim(1, -1))


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    norm, name = request.param
    return Head(norm).double().eval().requires_grad_(False), name


@pytest.mark.parametrize('method', ['FLoRA', 'LoRA, loralib', 'DoRA'])
def test_the_parameter_is_adapted_and_the_norm_stays(case, method):
    stock, name = case
    names = [f'{kind}.parametrizations.weight' for kind in ('fc', 'conv')]
    model = copy.deepcopy(stock)
    report = inject(model, WEIGHT_METHODS[method])
    assert report.adapted == names
    layers = adapted_layers(model)
    inputs = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(model(inputs), stock(inputs), **EXACT)

    randomise(model)
    changed = {
        f'{key}.{name}': layer.adapted_weight()
        for key, layer in layers.items()
    }
    expected = functional_call(stock, changed, (inputs,))
    output = model(inputs)
    torch.testing.assert_close(output, expected, **EXACT)
    upstream = torch.randn_like(output)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(output, parameters, upstream)
    wanted = torch.autograd.grad(expected, parameters, upstream)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    assert sum(bool(gradient.any()) for gradient in found) >= 4
    assert torch.equal(copy.deepcopy(model)(inputs), output)

    keys = [*model.state_dict()]
    way_back = merge(model)
    assert [*model.state_dict()] == [*stock.state_dict()]
    assert [type(m) for m in model.modules()] == [
        type(m) for m in stock.modules()
    ]
    torch.testing.assert_close(model(inputs), output, **EXACT)
    stock.load_state_dict(model.state_dict())
    assert torch.equal(stock(inputs), model(inputs))
    way_back.unmerge()
    assert [*model.state_dict()] == keys
    assert torch.equal(model(inputs), output)


def test_power_iterations_go_on_in_training():
    model = Head(parametrizations.spectral_norm).double().train()
    inject(model, WEIGHT_METHODS['FLoRA'])
    randomise(model, 5.0)
    inputs = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    for _ in range(50):
        output = model(inputs)
    norms = [
        float(torch.linalg.matrix_norm(layer.weight.flatten(1).detach(), 2))
        for layer in (model.fc, model.conv)
    ]
    assert norms == pytest.approx([1.0, 1.0], rel=1e-6)
    output.sum().backward()
    assert model.fc.parametrizations.weight.adapter.core.grad.any()


def test_unloaded_it_is_plain_again():
    model = Head(parametrizations.weight_norm)
    before = copy.deepcopy(model)
    inject(model, WEIGHT_METHODS['LoRA'])
    unload(model)
    assert [*model.state_dict()] == [*before.state_dict()]
    assert all(value.requires_grad for value in model.parameters())
    nn.utils.parametrize.remove_parametrizations(model.fc, 'weight')
    assert type(model.fc) is nn.Linear


def test_methods_of_peft_pass_by_what_they_would_misread():
    pytest.importorskip('peft')
    model = nn.ModuleDict(
        dict(head=Head(parametrizations.weight_norm), fc=nn.Linear(4, 4))
    )
    report = inject(model, dict(type='HFPEFT', peft_type='LORA', r=2))
    assert report.adapted == ['fc']
