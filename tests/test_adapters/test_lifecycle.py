"""Merging, switching off, copying and moving every kind of layer."""

import copy

import pytest
import torch
from layer_cases import CASES, DEFORMABLE, call
from mmcv.cnn import fuse_conv_bn
from torch import nn

from mmflora.adapters import (
    FLoRA,
    adapt_layer,
    disabled,
    inject,
    merge,
    restore_layer,
)
from mmflora.adapters.layer_weights import weight_name

EXACT = dict(rtol=1e-10, atol=1e-12)


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture
def stock(case):
    return case.stock()


@pytest.fixture
def layer(case, stock):
    return case.adapt(copy.deepcopy(stock))


@pytest.fixture
def inputs(case):
    return case.inputs()


def skip_deformable(case):
    if case in [CASES[name] for name in DEFORMABLE]:
        pytest.skip("mmcv's operator does not know it")


def base_weight(layer):
    return layer._parameters[weight_name(layer)]


def test_merged_is_stock_and_computes_the_same(stock, layer, inputs):
    expected = call(layer, inputs)
    merge(nn.ModuleList([layer]))
    assert type(layer) is type(stock)
    assert list(layer.state_dict()) == list(stock.state_dict())
    assert vars(layer).keys() == vars(stock).keys()
    assert repr(layer) == repr(stock)
    torch.testing.assert_close(call(layer, inputs), expected, **EXACT)
    assert not torch.equal(base_weight(layer), base_weight(stock))
    assert all(not value.requires_grad for value in layer.parameters())
    stock.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(call(stock, inputs), call(layer, inputs))


def test_unmerged_is_what_it_was_bit_for_bit(stock, layer, inputs):
    model = nn.ModuleList([layer])
    adapter, weight, kind = layer.adapter, base_weight(layer), type(layer)
    expected = call(layer, inputs)
    state = copy.deepcopy(layer.state_dict())
    way_back = merge(model)
    assert way_back.names == ['0']
    way_back.unmerge()
    assert type(layer) is kind
    assert layer.adapter is adapter
    assert base_weight(layer) is weight
    assert list(layer.state_dict()) == list(state)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, state[key])
    assert torch.equal(call(layer, inputs), expected)
    assert type(restore_layer(layer)) is type(stock)


def test_disabled_is_the_frozen_layer_bit_for_bit(stock, layer, inputs):
    model = nn.ModuleList([layer])
    expected = call(layer, inputs)
    with disabled(model) as same:
        assert same is model
        assert torch.equal(call(layer, inputs), call(stock, inputs))
        with disabled(model):
            pass
        assert torch.equal(call(layer, inputs), call(stock, inputs))
    assert torch.equal(call(layer, inputs), expected)
    with pytest.raises(RuntimeError, match='stop'), disabled(model):
        raise RuntimeError('stop')
    assert torch.equal(call(layer, inputs), expected)


def test_copies_stand_alone(stock, layer, inputs, copy_of):
    other = copy_of(layer)
    expected = call(layer, inputs)
    assert type(other) is type(layer)
    assert torch.equal(call(other, inputs), expected)
    with torch.no_grad():
        other.adapter.core.zero_()
    assert torch.equal(call(layer, inputs), expected)
    with torch.no_grad():  # attention rounds otherwise where it has gradients
        assert torch.equal(call(other, inputs), call(stock, inputs))
    assert type(restore_layer(other)) is type(stock)


def test_state_dict_round_trip(case, stock, layer, inputs):
    other = case.adapt(copy.deepcopy(stock))
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(call(other, inputs), call(layer, inputs))
    keys = list(layer.state_dict())
    factors = [f'adapter.factors.{i}' for i in range(layer.adapter.core.dim())]
    assert set(keys) - set(stock.state_dict()) == {'adapter.core', *factors}


def test_meta_device(case):
    skip_deformable(case)
    layer = case.stock(torch.float32)
    inputs = case.inputs(torch.float32)
    expected = call(layer, inputs)
    layer = case.adapt(layer.to('meta'))
    output = call(layer, inputs.to('meta'))
    assert output.is_meta
    assert output.shape == expected.shape
    merge(nn.ModuleList([layer]))
    assert call(layer, inputs.to('meta')).shape == expected.shape


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_base(case, dtype):
    if dtype == torch.bfloat16:
        skip_deformable(case)
    layer, inputs = case.adapted(dtype, spread=0.3), case.inputs(dtype)
    exact = copy.deepcopy(layer).double()
    wide = inputs.double() if inputs.is_floating_point() else inputs
    expected = call(exact, wide)
    output = call(layer, inputs)
    assert output.dtype == dtype
    assert base_weight(layer).dtype == dtype
    bound = 2e-2 * float(expected.detach().norm() if expected.numel() else 0)
    assert (output.double() - expected).norm() <= bound
    output.float().sum().backward()
    assert {value.grad.dtype for value in layer.adapter.parameters()} == {
        torch.float32
    }
    way_back = merge(nn.ModuleList([layer]))
    assert base_weight(layer).dtype == dtype
    assert (call(layer, inputs).double() - expected).norm() <= bound
    way_back.unmerge()
    assert torch.equal(call(layer, inputs), output)


def test_moving_casts_base_and_adapter(case, layer):
    layer.float()
    assert {value.dtype for value in layer.parameters()} == {torch.float32}
    assert call(layer, case.inputs(torch.float32)).dtype == torch.float32


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv = nn.Conv1d(8, 8, 3, padding='same', groups=8)
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.fc(self.conv(x.mT).mT)


def test_merging_a_whole_model(randomise):
    model = nn.Sequential(Block(), nn.ReLU(), Block()).double().eval()
    stock = copy.deepcopy(model)
    report = inject(model, dict(type='FLoRA', rank=4, scale=0.1))
    assert len(report.adapted) == 8
    for layer in map(model.get_submodule, report.adapted):
        randomise(layer.adapter)
    inputs = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = model(inputs)
    model[0].fc.adapter_enabled = False
    way_back = merge(model)
    assert way_back.names == report.adapted
    assert list(model.state_dict()) == list(stock.state_dict())
    assert [type(m) for m in model.modules()] == [
        type(m) for m in stock.modules()
    ]
    torch.testing.assert_close(model(inputs), expected, **EXACT)
    with pytest.raises(ValueError, match='merged already'):
        merge(model)
    way_back.unmerge()
    assert not model[0].fc.adapter_enabled
    model[0].fc.adapter_enabled = True
    assert torch.equal(model(inputs), expected)
    with pytest.raises(RuntimeError, match='undone already'):
        way_back.unmerge()
    merge(model).unmerge()
    assert torch.equal(model(inputs), expected)


def test_fusing_with_a_norm_asks_for_a_merge_first(randomise):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    nn.init.normal_(net[1].running_mean)
    inject(net, dict(type='LoRA', rank=2))
    randomise(net.eval())
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = net(images)
    with pytest.raises(RuntimeError, match='Merge first'):
        fuse_conv_bn(net)
    assert torch.equal(net(images), expected)
    merge(net)
    torch.testing.assert_close(fuse_conv_bn(net)(images), expected, **EXACT)


def test_model_without_adapters_is_not_merged():
    with pytest.raises(ValueError, match='Sequential has no adapted layer'):
        merge(nn.Sequential(nn.Linear(2, 2)))


def test_adapter_that_is_no_update_is_not_merged():
    class Nonlinear(FLoRA):
        mergeable = False

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    adapt_layer(model[0], FLoRA(model[0].weight))
    adapt_layer(model[1], Nonlinear(model[1].weight))
    kinds = [type(layer) for layer in model]
    with pytest.raises(ValueError, match="'1': Nonlinear cannot be merged"):
        merge(model)
    assert [type(layer) for layer in model] == kinds


@pytest.mark.parametrize('name', ['conv', 'conv, depthwise'])
def test_channels_last(name):
    case, form = CASES[name], torch.channels_last
    layer = case.adapted().to(memory_format=form)
    inputs = case.inputs().to(memory_format=form)
    for path in ('folded', 'factored', 'dense'):
        layer.adapter.path = path
        inputs.requires_grad_().grad = None
        output = layer(inputs)
        output.sum().backward()
        assert output.is_contiguous(memory_format=form)
        assert inputs.grad.is_contiguous(memory_format=form)
        plain = copy.deepcopy(layer).to(memory_format=torch.contiguous_format)
        torch.testing.assert_close(output, plain(inputs.contiguous()), **EXACT)
    merge(nn.ModuleList([layer]))
    assert layer.weight.is_contiguous(memory_format=form)
