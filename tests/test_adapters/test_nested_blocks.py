"""Supernets of prompts, LoRA and bottlenecks, against formulas in float64."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from method_cases import randomise
from torch import nn

from mmflora.adapters import (
    VPT,
    AdaptFormer,
    Houlsby,
    Pfeiffer,
    adapted_modules,
    inject,
    merge,
)
from mmflora.adapters.ranked import Prefixes

EXACT = dict(rtol=1e-10, atol=1e-12)
LORA = dict(type='DyLoRA', rank=4, ranks=[0, 2, 4], per_layer=True, scale=0.5)
NOAH = {
    r'blocks\.\d': dict(type='VPT', tokens=3, counts=[0, 1, 3]),
    r'.*\.qkv': LORA,
    r'.*\.mlp': dict(type='Pfeiffer', width=4, widths=[0, 1, 4]),
}
# Prompts, rank and width of each block; all kinds are 0 somewhere.
CHOICES = [
    [(3, 4, 4), (3, 4, 4)],
    [(1, 0, 4), (0, 2, 1)],
    [(0, 2, 0), (1, 0, 0)],
    [(0, 0, 0), (0, 0, 0)],
]


@pytest.fixture
def net():
    """A plain transformer of two blocks of 12 channels."""
    torch.manual_seed(0)
    model = timm.create_model(
        'vit_tiny_patch16_224',
        **dict(img_size=32, embed_dim=12, depth=2, num_heads=2),
        num_classes=0,
    )
    return model.double().eval()


def supernet(net):
    inject(net, LORA, NOAH)
    return randomise(net)


def choose(net, choice):
    """Let parts of the widest architecture count."""
    for block, (tokens, rank, width) in zip(net.blocks, choice, strict=True):
        block.adapter.prefix = tokens
        block.attn.qkv.adapter.prefix = rank
        block.mlp.adapter.prefix = width
    return net


def by_hand(stock, super_net, choice, tokens):
    """Compute the blocks, each kind of part by the formula of its paper."""
    for block, wide, (count, rank, width) in zip(
        stock.blocks, super_net.blocks, choice, strict=True
    ):
        prompts = wide.adapter.prompts[:count]
        x = torch.cat([tokens, prompts.expand(len(tokens), -1, -1)], 1)
        lora = wide.attn.qkv.adapter
        qkv = block.attn.qkv
        update = lora.up[:, :rank] @ lora.down[:rank]
        with torch.no_grad():
            before = qkv.weight.clone()
            qkv.weight.add_(0.5 * update)
            x = x + block.attn(block.norm1(x))
            qkv.weight.copy_(before)
        h = block.mlp(block.norm2(x))
        if width:
            own = wide.mlp.adapter
            hidden = h @ own.down[:width].T + own.down_bias[:width]
            hidden = F.relu(hidden)
            h = h + hidden @ own.up[:, :width].T + own.up_bias
        tokens = (x + h)[:, : tokens.shape[1]]
    return tokens


@pytest.mark.parametrize('choice', CHOICES)
def test_an_architecture_is_its_parts(net, choice):
    stock = copy.deepcopy(net)
    choose(supernet(net), choice)
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    expected = by_hand(stock, net, choice, tokens)
    torch.testing.assert_close(net.blocks(tokens), expected, **EXACT)


@pytest.mark.parametrize('choice', CHOICES)
def test_what_does_not_count_gets_a_gradient_of_zero(net, choice):
    """Not none at all, which several processes would wait for."""
    choose(supernet(net), choice)
    net(torch.randn(2, 3, 32, 32).double()).square().sum().backward()
    for block, (count, rank, width) in zip(net.blocks, choice, strict=True):
        prompts = block.adapter.prompts.grad
        assert prompts[:count].all()
        assert not prompts[count:].any()
        lora = block.attn.qkv.adapter
        assert lora.up.grad[:, :rank].any() == bool(rank)
        assert lora.down.grad[:rank].all()
        assert not lora.up.grad[:, rank:].any()
        assert not lora.down.grad[rank:].any()
        own = block.mlp.adapter
        assert not own.up.grad[:, width:].any()
        assert not own.down.grad[width:].any()
        assert own.up_bias.grad.any() == bool(width)


def test_the_frozen_model_is_an_architecture(net):
    images = torch.randn(2, 3, 32, 32).double()
    expected = net(images)
    choose(supernet(net), CHOICES[-1])
    assert torch.equal(net(images), expected)


@pytest.mark.parametrize('choice', CHOICES[:2])
def test_autocast(net, choice):
    choose(supernet(net.float()), choice)
    images = torch.randn(2, 3, 32, 32)
    expected = net(images)
    with torch.autocast('cpu', torch.bfloat16):
        found = net(images)
    found.sum().backward()
    # bfloat16 has 8 bits: 2⁻⁸ for each of some ten roundings in a row.
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(
        found.float(), expected, atol=0.05 * scale, rtol=0
    )
    for module in adapted_modules(net).values():
        for parameter in module.adapter.parameters():
            assert parameter.dtype == torch.float32
            assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ('method', 'name', 'several'),
    [
        (Pfeiffer, 'width', 'widths'),
        (Houlsby, 'width', 'widths'),
        (AdaptFormer, 'width', 'widths'),
        (VPT, 'tokens', 'counts'),
    ],
)
def test_prefixes_are_adapters_of_their_width(net, method, name, several):
    stock, settings = copy.deepcopy(net), {name: 5, several: [0, 2, 5]}
    inject(net, dict(type=method.__name__, **settings))
    randomise(net)
    images = torch.randn(2, 3, 32, 32).double()
    for width in (1, 2, 5):
        small, lower = copy.deepcopy(stock), {name: width}
        inject(small, dict(type=method.__name__, **lower))
        for key, module in adapted_modules(net).items():
            own = module.adapter
            prefixes = Prefixes(method, own.state_dict(), settings)
            assert prefixes.largest == 5
            assert prefixes.settings(width) == lower
            part = small.get_submodule(f'{key}.adapter')
            part.load_state_dict(prefixes.tensors(width))
            count = sum(p.numel() for p in part.parameters())
            assert prefixes.parameters(width) == count
            own.prefix = width
        torch.testing.assert_close(net(images), small(images), **EXACT)


def test_only_products_merge(net):
    inject(net, LORA, r'.*\.qkv')
    randomise(net)
    images = torch.randn(2, 3, 32, 32).double()
    expected = net(images)
    merge(net)
    torch.testing.assert_close(net(images), expected, **EXACT)


def test_a_supernet_of_bottlenecks_cannot_be_merged(net):
    with pytest.raises(ValueError, match='cannot be merged'):
        merge(supernet(net))


@pytest.mark.parametrize(
    ('settings', 'part'),
    [
        (dict(type='Pfeiffer', width=4, widths=[0, 2]), '0 to the width, 4'),
        (dict(type='Pfeiffer', width=4, widths=[]), '`widths` lists integers'),
        (dict(type='Houlsby', width=4, widths=[-1, 4]), 'from 0 to the width'),
        (dict(type='AdaptFormer', width=4, widths=4), 'got widths=4'),
        (dict(type='VPT', tokens=4, counts=[5, 4]), 'from 0 to the tokens, 4'),
        (
            dict(type='VPT', tokens=4, counts=[4], form='shallow'),
            '`form` is one of deep',
        ),
        (dict(type='DyLoRA', rank=4, ranks=[0, 4]), 'from 1 to the rank'),
        (
            dict(type='DyLoRA', rank=4, ranks=[-1, 4], per_layer=True),
            'from 0 to the rank',
        ),
        (dict(type='DyLoRA', scale=0), '`?scale`? must be finite'),
        (dict(type='MatryoshkaFLoRA', per_layer=True), 'needs sampled=True'),
    ],
)
def test_bad_spaces_are_refused(net, settings, part):
    with pytest.raises(ValueError, match=part):
        inject(net, settings)


def test_flags():
    for kind in ('DyLoRA', 'MatryoshkaFLoRA'):
        with pytest.raises(TypeError, match='`per_layer` is True or False'):
            inject(nn.Linear(4, 4), dict(type=kind, per_layer=1))
