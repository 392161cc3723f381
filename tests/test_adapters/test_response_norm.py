"""The memory-efficient global response norm against timm's."""

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm as Stock
from torch import nn

from mmflora.adapters.memory.response_norm import (
    GlobalResponseNorm,
    use_memory_efficient_grn,
)

EXACT = dict(rtol=1e-10, atol=1e-12)
LAYOUTS = {'NHWC': True, 'NCHW': False}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def pair(request):
    stock = Stock(6, channels_last=request.param).double()
    ours = GlobalResponseNorm(6, channels_last=request.param).double()
    for parameter in stock.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(stock.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(stock.state_dict())
    return ours, stock


def draw(norm, batch=2, size=(5, 4)):
    last = norm.channel_dim == -1
    shape = (batch, *size, 6) if last else (batch, 6, *size)
    return torch.randn(shape, dtype=torch.float64)


def step(norm, inputs):
    norm.zero_grad()
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    torch.manual_seed(1)
    output.backward(torch.randn_like(output))
    return output, inputs.grad, norm.weight.grad, norm.bias.grad


def check(pair, inputs):
    for found, wanted in zip(*(step(n, inputs) for n in pair), strict=True):
        assert found.shape == wanted.shape
        assert found.isfinite().all()
        torch.testing.assert_close(found, wanted, **EXACT)


def test_values_and_gradients(pair):
    check(pair, draw(pair[0]))


def test_large_images_are_summed_in_slices(pair, monkeypatch):
    monkeypatch.setattr('mmflora.adapters.memory.response_norm._SLICE', 50)
    check(pair, draw(pair[0], size=(7, 5)))


def test_permuted_input(pair):
    inputs = draw(pair[0]).permute(0, 3, 1, 2).contiguous()
    check(pair, inputs.permute(0, 2, 3, 1))


@pytest.mark.parametrize('batch', [0, 1])
def test_small_batches(pair, batch):
    check(pair, draw(pair[0], batch))


def test_zero_input(pair):
    check(pair, torch.zeros_like(draw(pair[0])))


def test_one_zero_channel(pair):
    inputs = draw(pair[0])
    inputs.select(pair[0].channel_dim, 2).zero_()
    check(pair, inputs)


def test_one_zero_image(pair):
    inputs = draw(pair[0])
    inputs[0] = 0
    check(pair, inputs)


def test_half_precision_sums_in_float32(pair):
    ours = pair[0].float()
    inputs = 30 * draw(ours, size=(40, 40)).half()  # squares overflow
    output = ours(inputs)
    assert output.dtype == torch.float16
    expected = ours.double()(inputs.double())
    torch.testing.assert_close(
        output.double(), expected, rtol=2**-10, atol=1e-3
    )


def test_class_changes_in_place_and_only_of_stock_norms():
    model = nn.Sequential(Stock(6), nn.LayerNorm(6), GlobalResponseNorm(6))
    before = list(model.state_dict())
    weight = model[0].weight
    use_memory_efficient_grn(model)
    assert [type(m) for m in model] == [
        GlobalResponseNorm,
        nn.LayerNorm,
        GlobalResponseNorm,
    ]
    assert model[0].weight is weight
    assert list(model.state_dict()) == before
