"""What an adapted layer does, beside the formulas, on a few kinds."""

import copy

import pytest
import torch
import torch.nn.functional as F
from layer_cases import CASES
from torch import nn

from mmflora.adapters import (
    AdaptedLayer,
    FLoRA,
    adapt_layer,
    inject,
    restore_layer,
)

NAMES = ('linear', 'linear, no bias', 'conv, groups', 'conv, replicate same')


@pytest.fixture(params=NAMES)
def case(request):
    return CASES[request.param]


def test_layer_changes_in_place_and_back(case):
    calls = []
    layer, inputs = case.stock(), case.inputs()
    layer.register_forward_hook(lambda *_: calls.append('hook'))
    stock = copy.deepcopy(layer)
    weight, bias, keys = layer.weight, layer.bias, list(layer.state_dict())
    assert case.adapt(layer) is layer
    assert isinstance(layer, AdaptedLayer)
    assert isinstance(layer, layer.stock_class)
    assert layer.weight is weight
    assert layer.bias is bias
    assert list(layer.state_dict()) == [
        *keys,
        'adapter.core',
        *(f'adapter.factors.{mode}' for mode in range(weight.dim())),
    ]
    layer(inputs)
    assert calls == ['hook']
    assert restore_layer(layer) is layer
    assert type(layer) is type(stock)
    assert vars(layer).keys() == vars(stock).keys()
    assert list(layer.state_dict()) == keys
    assert torch.equal(layer(inputs), stock(inputs))


def test_stock_state_dict_loads_after_adaptation(case):
    stock = case.stock()
    layer = case.adapt(copy.deepcopy(stock))
    with torch.no_grad():
        layer.weight.zero_()
    result = layer.load_state_dict(stock.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(key.startswith('adapter.') for key in result.missing_keys)
    assert torch.equal(layer.weight, stock.weight)


def test_dropout_is_for_training_and_the_update_alone(case):
    stock, inputs = case.stock(), case.inputs()
    layer = case.adapt(copy.deepcopy(stock), dropout=0.5)
    plain = case.adapt(copy.deepcopy(stock))
    plain.adapter.load_state_dict(layer.adapter.state_dict())
    assert torch.equal(layer.eval()(inputs), plain(inputs))
    layer.train()
    torch.manual_seed(7)
    output = layer(inputs)
    torch.manual_seed(7)
    dropped = F.dropout(inputs, 0.5)
    expected = stock(inputs) + layer.compute(
        dropped, layer.delta_weight(), None
    )
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    assert not torch.equal(output, plain(inputs))


def test_zero_core_with_dropout_starts_at_the_frozen_layer(case):
    stock, inputs = case.stock(), case.inputs()
    layer = copy.deepcopy(stock)
    adapt_layer(layer, FLoRA(layer.weight, rank=3, dropout=0.3)).train()
    assert torch.equal(layer(inputs), stock(inputs))


def test_autocast_rounds_the_folded_weight_once(case):
    layer, inputs = case.adapted(torch.float32), case.inputs(torch.float32)
    folded = (layer.weight + layer.delta_weight()).bfloat16()
    bias = None if layer.bias is None else layer.bias.bfloat16()
    expected = layer.compute(inputs.bfloat16(), folded, bias)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = layer(inputs)
        delta = layer.delta_weight()
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    assert torch.equal(delta, layer.delta_weight())
    output.float().sum().backward()
    assert layer.adapter.core.grad.dtype == torch.float32


@pytest.mark.parametrize('dropout', [0.0, 0.5])
def test_bfloat16_base_under_float32_adapters(case, dropout):
    layer = case.adapted(torch.bfloat16, dropout=dropout)
    inputs = case.inputs(torch.bfloat16)
    output = layer(inputs)
    assert output.dtype == torch.bfloat16
    assert layer.weight.dtype == torch.bfloat16
    if not dropout:
        folded = (layer.weight.float() + layer.delta_weight()).bfloat16()
        assert torch.equal(output, layer.compute(inputs, folded, layer.bias))
    output.float().sum().backward()
    assert layer.adapter.core.grad.dtype == torch.float32


@pytest.mark.parametrize('method', ['FLoRA', 'LoRA', 'DoRA'])
@pytest.mark.parametrize('tokens', [1, 64])
def test_an_output_may_be_changed_in_place(method, tokens):
    """mmcv's feed-forward networks do it, on several dimensions."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))
    stock = copy.deepcopy(model)
    inject(model, dict(type=method, rank=2))
    inputs = torch.randn(2, tokens, 8, requires_grad=True)
    output = model(inputs)
    torch.testing.assert_close(output, stock(inputs))
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    (expected,) = torch.autograd.grad(stock(inputs).sum(), inputs)
    torch.testing.assert_close(gradient, expected)
