"""Queryable LoRA, from its equations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmflora.adapters import inject, merge, sharing_layers, unload

EXACT = dict(rtol=1e-10, atol=1e-12)
METHOD = dict(type='QueryableLoRA', rank=3, atoms=4, width=2, alpha=1.5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, (3, 2), stride=2, dilation=2)
        self.grouped = nn.Conv2d(6, 6, 3, groups=2)
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(self.grouped(self.conv(x)).movedim(1, -1))


def network(spread=0.5):
    torch.manual_seed(0)
    net = Net().double().eval()
    report = inject(net, METHOD)
    assert 'one group' in report.left_out['grouped']
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return net


IMAGES = torch.randn(
    2, 3, 13, 12, dtype=torch.float64, generator=torch.Generator()
)


def by_hand(adapter, state):
    """Return s B Σ π_k U_k z for one low-rank state z."""
    memory = adapter.shared
    query = adapter.query @ state
    logits = [key @ query / 2**0.5 for key in memory.keys]
    weights = (torch.stack(logits) + adapter.prior).exp()
    weights = weights / weights.sum()
    operator = sum(
        weight * atom
        for weight, atom in zip(weights, memory.values, strict=True)
    )
    return 0.5 * adapter.up @ operator @ state


def test_starts_at_the_frozen_layer():
    torch.manual_seed(0)
    stock = Net().double().requires_grad_(False)
    adapted = copy.deepcopy(stock)
    inject(adapted, METHOD)
    assert torch.equal(adapted(IMAGES), stock(IMAGES))


def test_linear_layer_mixes_atoms_by_the_query_of_each_token():
    net = network()
    tokens = torch.randn(3, 6, dtype=torch.float64)
    layer = net.linear
    frozen = F.linear(tokens, layer.weight, layer.bias)
    updates = [
        by_hand(layer.adapter, layer.adapter.down @ token) for token in tokens
    ]
    torch.testing.assert_close(
        layer(tokens), frozen + torch.stack(updates), **EXACT
    )
    torch.testing.assert_close(layer(tokens[0]), layer(tokens)[0], **EXACT)


def test_convolution_mixes_them_at_each_pixel():
    net = network()
    layer = net.conv
    options = dict(stride=2, dilation=2)
    frozen = F.conv2d(IMAGES, layer.weight, layer.bias, **options)
    states = F.conv2d(IMAGES, layer.adapter.down, None, **options)
    output = layer(IMAGES)
    for i, y, x in [(0, 0, 0), (1, 4, 3)]:
        update = by_hand(layer.adapter, states[i, :, y, x])
        torch.testing.assert_close(
            output[i, :, y, x], frozen[i, :, y, x] + update, **EXACT
        )


def test_all_parameters_learn_and_the_memory_is_one():
    net = network()
    net(IMAGES).square().sum().backward()
    trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
    assert all(p.grad.any() for p in trained.values())
    assert {n for n in trained if 'shared' in n} == {
        'conv.adapter.shared.values',
        'conv.adapter.shared.keys',
    }
    assert sharing_layers(net) == ['conv', 'linear']


def test_the_update_is_no_weight():
    net = network()
    with pytest.raises(ValueError, match='depends on the input'):
        merge(net)
    with pytest.raises(ValueError, match='depends on the input'):
        net.linear.delta_weight()
    unload(net)
    assert type(net.conv) is nn.Conv2d


def test_small_updates_survive_half_precision():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).bfloat16()
    net = nn.Sequential(layer)
    inject(net, METHOD)
    assert {p.dtype for p in layer.adapter.parameters()} == {torch.float32}
    tokens = torch.randn(4, 6, dtype=torch.bfloat16)
    assert net(tokens).dtype == torch.bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        net(tokens.float()).float().sum().backward()
    assert layer.adapter.up.grad.any()


def test_a_weight_that_its_parent_reads_is_refused():
    with pytest.raises((TypeError, ValueError), match='reads its weight'):
        inject(nn.TransformerEncoderLayer(8, 2, 16), METHOD, '.*out_proj')


def test_decay_pulls_towards_the_frozen_layer():
    net, tokens = network(), torch.randn(3, 6, dtype=torch.float64)
    layer = net.linear
    frozen = F.linear(tokens, layer.weight, layer.bias)
    parameters = [*layer.adapter.parameters()]
    parameters += layer.adapter.shared.parameters()
    steady = set(layer.adapter.no_decay_parameters())
    for parameter in parameters:
        value = parameter.detach().clone()
        with torch.no_grad():
            parameter.zero_()
            near = torch.allclose(layer(tokens), frozen)
            parameter.copy_(value)
        assert near == (parameter not in steady)
