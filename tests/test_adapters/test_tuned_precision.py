"""Tuned parameters of a base in half precision train in float32."""

import pytest
import torch
from torch import nn

from mmflora.adapters import inject


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_tuned_parameters_become_float32(dtype):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(dtype)
    bias = model[0].bias
    values = bias.detach().clone()
    inject(model, dict(type='BitFit'))
    assert model[0].bias is bias
    assert bias.requires_grad
    assert bias.dtype is torch.float32
    assert torch.equal(bias, values.float())
    assert model[0].weight.dtype is dtype
    # A step that half precision would round away.
    with torch.no_grad():
        bias.add_(1e-5)
    assert not torch.equal(bias, values.float())


def test_other_types_stay():
    model = nn.Sequential(nn.Linear(4, 3)).double()
    inject(model, dict(type='BitFit'))
    assert model[0].bias.dtype is torch.float64


def test_the_layer_computes_under_autocast():
    model = nn.Sequential(nn.Linear(4, 3)).bfloat16()
    inject(model, dict(type='BitFit'))
    with torch.autocast('cpu', torch.bfloat16):
        output = model(torch.ones(2, 4, dtype=torch.bfloat16))
    output.float().sum().backward()
    assert torch.equal(model[0].bias.grad, torch.full((3,), 2.0))
