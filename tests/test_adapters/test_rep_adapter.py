"""RepAdapter: a linear adapter before a layer, which merges exactly."""

import copy

import pytest
import timm
import torch
from layer_cases import CASES, call
from method_cases import adapt, randomise
from torch import nn

from mmflora.adapters import inject, merge

EXACT = dict(rtol=1e-10, atol=1e-12)
SETTINGS = dict(type='RepAdapter', rank=4, groups=2, scale=0.5)


def adapted_input(adapter, x):
    """Return x + s (B (A x + a) + b), the channels last; B in two groups."""
    p = dict(adapter.named_parameters())
    hidden = x @ p['down'].T + p.get('down_bias', 0)
    halves = zip(hidden.chunk(2, -1), p['up'].chunk(2), strict=True)
    change = torch.cat([part @ own.T for part, own in halves], -1)
    return x + 0.5 * (change + p.get('up_bias', 0))


@pytest.mark.parametrize(
    'case',
    ['linear', 'conv', 'conv, no bias', 'conv1d', 'conv3d', 'transposed 2d'],
)
def test_the_layer_reads_the_adapted_input(case):
    stock = CASES[case].stock()
    layer = randomise(adapt(copy.deepcopy(stock), SETTINGS))
    inputs = CASES[case].inputs()
    dim = -1 if case == 'linear' else 1
    x = adapted_input(layer.adapter, inputs.movedim(dim, -1))
    expected = call(stock, x.movedim(-1, dim))
    torch.testing.assert_close(call(layer, inputs), expected, **EXACT)


@pytest.mark.parametrize(
    ('layer', 'biases'),
    [
        (nn.Linear(6, 8), True),
        (nn.Linear(6, 8, bias=False), False),
        (nn.Conv2d(6, 8, 1), True),
        (nn.Conv2d(6, 8, 3), True),
        (nn.Conv2d(6, 8, 3, padding=1), False),
        (nn.Conv2d(6, 8, 3, padding='same'), False),
        (nn.Conv2d(6, 8, 3, padding=1, padding_mode='reflect'), True),
        (nn.ConvTranspose2d(6, 8, 2, stride=2), False),
    ],
    ids=str,
)
def test_biases_where_they_merge_and_a_remark_elsewhere(layer, biases):
    net = nn.ModuleDict(dict(layer=layer.double()))
    report = inject(net, SETTINGS)
    assert (layer.adapter.down_bias is not None) == biases
    assert bool(report.remarks) != biases
    randomise(net)
    plain = isinstance(layer, nn.Linear)
    inputs = torch.randn(*((3, 6) if plain else (2, 6, 5, 4))).double()
    before = layer(inputs)
    merge(net)
    torch.testing.assert_close(layer(inputs), before, **EXACT)


def test_the_papers_places_of_a_vision_transformer():
    net = timm.create_model(
        'vit_tiny_patch16_224', img_size=32, depth=2, num_classes=0
    )
    net.double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    frozen = net(images)
    keys = list(net.state_dict())
    report = inject(net, dict(type='RepAdapter'), r'.*\.(qkv|fc1)')
    assert report.adapted == [
        f'blocks.{i}.{place}'
        for i in range(2)
        for place in ('attn.qkv', 'mlp.fc1')
    ]
    # Per place A 8 x 192, B 192 x 4, a 8 and b 192.
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert trained == 4 * (12 * 192 + 200)
    assert torch.equal(net(images), frozen)
    adapted = randomise(net)(images)
    assert not torch.allclose(adapted, frozen)
    merge(net)
    torch.testing.assert_close(net(images), adapted, rtol=1e-9, atol=1e-9)
    assert list(net.state_dict()) == keys


def test_channels_that_groups_cannot_share():
    net = nn.ModuleDict(dict(odd=nn.Linear(5, 4), even=nn.Linear(4, 4)))
    report = inject(net, SETTINGS)
    assert report.adapted == ['even']
    assert '5 input channels' in report.left_out['odd']
