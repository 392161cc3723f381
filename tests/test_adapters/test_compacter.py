"""Compacter, from its equations."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from mmflora.adapters import disabled, inject, merge, sharing_layers

EXACT = dict(rtol=1e-10, atol=1e-12)
METHOD = dict(type='Compacter', width=8, phm_dim=4, rank=2)


class Block(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x):
        return self.mlp(self.attn(x))


def network(**options):
    torch.manual_seed(0)
    net = nn.Sequential(Block(), Block()).double()
    inject(net, METHOD | options)
    return net


def product(rules, left, right):
    """Return Σ_i A_i ⊗ (s_i t_i)."""
    return sum(map(torch.kron, rules, left @ right))


def test_both_matrices_are_sums_of_kronecker_products():
    net = network()
    for parameter in net.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    adapter = net[1].attn.adapter
    rules = net[0].attn.adapter.shared.rules
    assert adapter.shared.rules is rules
    h = torch.randn(3, 5, 12, dtype=torch.float64)
    down = product(rules, adapter.down_left, adapter.down_right)
    up = product(rules, adapter.up_left, adapter.up_right)
    hidden = F.gelu(h @ down.T + adapter.down_bias)
    expected = h + hidden @ up.T + adapter.up_bias
    torch.testing.assert_close(adapter(h, h), expected, **EXACT)


def test_starts_unchanged_and_every_parameter_learns():
    net = network()
    x = torch.randn(3, 12, dtype=torch.float64)
    stock = net[1].attn(x)
    assert torch.equal(
        stock, F.linear(x, net[1].attn.weight, net[1].attn.bias)
    )
    for parameter in net.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    net(x).square().sum().backward()
    trained = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad.any() for p in trained)


def test_the_rules_are_in_the_model_once():
    net = network()
    shared = [n for n, _ in net.named_parameters() if 'shared' in n]
    assert shared == ['0.attn.adapter.shared.rules']
    assert sharing_layers(net) == ['0.attn', '0.mlp', '1.attn', '1.mlp']
    # n³ once; of each of two matrices r (k + d), and the biases k + d.
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert trained == 4**3 + 4 * (2 * 2 * (8 + 12) + 8 + 12)


def test_what_n_does_not_divide():
    with pytest.raises(ValueError, match='multiple of phm_dim=4, got width=6'):
        network(width=6)
    net = nn.ModuleDict(dict(mlp=nn.Linear(10, 10), ffn=nn.Linear(8, 8)))
    report = inject(net, METHOD)
    assert 'no multiple of phm_dim=4' in report.left_out['mlp']
    assert report.adapted == ['ffn']


def test_a_convnext_with_channels_first_and_no_merge():
    torch.manual_seed(0)
    net = timm.models.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(4, 8, 12, 16), num_classes=0, conv_mlp=True
    )
    images = torch.randn(2, 3, 32, 32)
    expected = net.eval()(images)
    report = inject(net, METHOD)
    assert report.adapted == [f'stages.{i}.blocks.0.mlp' for i in range(4)]
    assert torch.equal(net(images), expected)
    for parameter in net.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    assert not torch.allclose(net(images), expected)
    with disabled(net):
        assert torch.equal(net(images), expected)
    with pytest.raises(ValueError, match=r'Compacter cannot be merged.*activ'):
        merge(net)
