"""The walked backward pass against PyTorch's engine."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmflora.memory_estimate import graph_walk
from mmflora.memory_estimate.ledger import Ledger
from mmflora.memory_estimate.walkable import walkable_graphs


class Power(torch.autograd.Function):
    """Two tensors and a number in, two tensors out."""

    @staticmethod
    def forward(ctx, base, exponent, other):
        ctx.save_for_backward(base)
        ctx.exponent = exponent
        return base**exponent, other * 2

    @staticmethod
    def backward(ctx, to_power, to_double):
        (base,) = ctx.saved_tensors
        slope = ctx.exponent * base ** (ctx.exponent - 1)
        return to_power * slope, None, to_double * 2


class Nested(torch.autograd.Function):
    """Whose gradient is a backward pass of its own."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs.sin()

    @staticmethod
    def backward(ctx, gradient):
        (inputs,) = ctx.saved_tensors
        with torch.enable_grad():
            again = inputs.detach().requires_grad_()
            return torch.autograd.grad(again.sin(), again, gradient)[0]


class Net(nn.Module):
    """Branches, broadcasts, writes into views, unused parts."""

    def __init__(self, recompute):
        super().__init__()
        self.recompute = recompute
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8, bias=False)
        self.unused = nn.Linear(2, 2)

    def branch(self, x):
        return self.second(F.gelu(self.first(x)))

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().permute(0, 2, 3, 1)
        if self.recompute:
            x = x + checkpoint(self.branch, x, use_reentrant=False)
        else:
            x = x + self.branch(x)
        x, y = Power.apply(x, 3, x)
        x = Nested.apply(x)
        z = x.clone()
        z[:, :2] = y[:, :2] * self.second.weight.sum()
        first, last = x.chunk(2, -1)
        return (z * first.mean()).sum() + last.mean() * x.std()


def pass_back(net, images, walked):
    """Return the gradients, and the ledger after the pass."""
    net.zero_grad()
    gc.collect()
    gc.disable()
    try:
        with Ledger('cpu') as ledger:
            if walked:
                with walkable_graphs():
                    graph_walk.backward([net(images)])
            else:
                net(images).backward()
    finally:
        gc.enable()
    return [parameter.grad for parameter in net.parameters()], ledger


@pytest.mark.parametrize('recompute', [False, True])
def test_gradients_and_bytes_are_the_engine_s(recompute):
    torch.manual_seed(0)
    net, images = Net(recompute), torch.randn(2, 3, 16, 16)
    pass_back(net, images, walked=False)  # what is loaded on first use
    by_engine, of_engine = pass_back(net, images, walked=False)
    by_walk, of_walk = pass_back(net, images, walked=True)
    for expected, gradient in zip(by_engine, by_walk, strict=True):
        if expected is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected)
    assert of_walk.held == of_engine.held
    # A few scalars live for another moment.
    assert abs(of_walk.peak - of_engine.peak) <= 64


def test_gradients_accumulate_where_there_are_some():
    layer = nn.Linear(4, 4)
    inputs = torch.randn(3, 4)
    for _ in range(2):
        with walkable_graphs():
            graph_walk.backward([layer(inputs).sum()])
    expected = 2 * inputs.sum(0).expand(4, 4)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_each_gradient_is_announced():
    layer, seen = nn.Linear(4, 4), []
    graph_walk.backward(
        [layer(torch.randn(3, 4)).sum()], on_gradient=seen.append
    )
    assert {id(g) for g in seen} == {id(p.grad) for p in layer.parameters()}


def test_gradients_of_tensors_within():
    inputs = torch.randn(3, 4, requires_grad=True)
    inner = inputs * 2
    outer = inner.sin().sum()
    found = graph_walk.grad(outer, [inner, inputs])
    torch.testing.assert_close(found[0], inner.cos())
    torch.testing.assert_close(found[1], 2 * inner.cos())
    assert inputs.grad is None
