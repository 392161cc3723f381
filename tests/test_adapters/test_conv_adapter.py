"""Conv-Adapter: a depthwise separable bottleneck beside convolutions."""

import pytest
import timm
import torch
import torch.nn.functional as F
from method_cases import randomise
from torch import nn

from mmflora.adapters import adapted_modules, disabled, inject, merge

EXACT = dict(rtol=1e-10, atol=1e-12)
BLOCKS = r'stages\.\d\.blocks\.\d'


def convnext():
    net = timm.models.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), num_classes=0
    )
    return net.double().eval()


def formula(adapter, x, stride=1, padding=0, dilation=1):
    """Compute α ⊙ (U ⊗ gelu(D ⊗ x)) as the paper has it."""
    p = adapter
    groups = len(p.down)
    hidden = F.conv2d(
        x, p.down, p.down_bias, stride, padding, dilation, groups
    )
    return p.gain * F.conv2d(F.gelu(hidden), p.up, p.up_bias)


@pytest.mark.parametrize(
    ('conv', 'geometry', 'width'),
    [
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), dict(padding=3), 2),
        (nn.Conv2d(8, 12, 2, stride=2), dict(stride=2), 2),
        (
            nn.Conv2d(9, 9, 3, padding=2, dilation=2),
            dict(padding=2, dilation=2),
            1,
        ),
        (nn.Conv2d(6, 4, (3, 5), padding='same'), dict(padding='same'), 1),
    ],
    ids=str,
)
def test_beside_a_convolution(conv, geometry, width):
    net = nn.ModuleDict(dict(conv_dw=conv.double()))
    x = torch.randn(2, conv.in_channels, 9, 8, dtype=torch.float64)
    frozen = conv(x)
    assert inject(net, dict(type='ConvAdapter')).adapted == ['conv_dw']
    assert torch.equal(conv(x), frozen)
    randomise(net)
    assert conv.adapter.width == width
    expected = frozen + formula(conv.adapter, x, **geometry)
    torch.testing.assert_close(conv(x), expected, **EXACT)


def test_behind_a_convolution_and_on_whole_blocks():
    behind, beside = convnext(), convnext()
    x = torch.randn(2, 12, 7, 6, dtype=torch.float64)
    settings = dict(type='ConvAdapter', sequential=True, places=BLOCKS)
    for net, one in (
        (behind, settings),
        (beside, settings | dict(sequential=False)),
    ):
        assert len(inject(net, one).adapted) == 4
        block = randomise(net).stages[1].blocks[0]
        with disabled(net):
            frozen = block(x)
        read = frozen if net is behind else x
        expected = frozen + formula(block.adapter, read, padding=3)
        torch.testing.assert_close(block(x), expected, **EXACT)


def test_a_convnext_starts_as_it_was_and_learns():
    net = convnext()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    frozen = net(images)
    report = inject(net, dict(type='ConvAdapter'))
    assert report.adapted == [
        'stages.0.blocks.0.conv_dw',
        *(
            f'stages.{i}.{place}'
            for i in (1, 2, 3)
            for place in ('downsample.1', 'blocks.0.conv_dw')
        ),
    ]
    assert torch.equal(net(images), frozen)
    randomise(net)(images).square().sum().backward()
    for module in adapted_modules(net).values():
        assert all(p.grad.any() for p in module.adapter.parameters())
    with disabled(net):
        assert torch.equal(net(images), frozen)
    with pytest.raises(ValueError, match='activation stands between'):
        merge(net)


def test_count_on_convnext_tiny():
    """Count by hand, γ = 4: 49 C + 0.25 C, 0.25 C² + C and C in a block.

    Beside a downsampling from C to 2 C: 4 C + 0.25 C, 0.5 C² + 2 C and 2 C.
    """
    with torch.device('meta'):
        net = timm.create_model('convnext_tiny', num_classes=0)
    inject(net, dict(type='ConvAdapter'))
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    stages = zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True)
    blocks = sum(n * (51.25 * c + c * c / 4) for n, c in stages)
    between = sum(8.25 * c + c * c / 2 for c in (96, 192, 384))
    assert trained == blocks + between


def test_resnets_and_what_has_no_convolution():
    resnet = timm.create_model('resnet18', num_classes=0).eval()
    assert len(inject(resnet, dict(type='ConvAdapter')).adapted) == 8
    vit = timm.create_model('vit_tiny_patch16_224', depth=1, num_classes=0)
    with pytest.raises(ValueError, match='none of the modules'):
        inject(vit, dict(type='ConvAdapter'))
    net = nn.ModuleDict(
        dict(
            a=nn.ModuleDict(dict(conv2=nn.Linear(4, 4))),
            b=nn.ModuleDict(dict(conv2=timm.layers.Conv2dSame(4, 4, 3))),
            c=nn.ModuleDict(dict(conv2=nn.Conv2d(4, 4, 3))),
        )
    )
    report = inject(net, dict(type='ConvAdapter'))
    assert report.adapted == ['c.conv2']
    assert 'no convolution' in report.left_out['a.conv2']
    assert 'Conv2dSame pads' in report.left_out['b.conv2']


def test_autocast_trains_it():
    net = convnext().float()
    inject(net, dict(type='ConvAdapter'))
    randomise(net)
    with torch.autocast('cpu', torch.bfloat16):
        output = net(torch.randn(1, 3, 64, 64)).float()
    output.square().sum().backward()
    for module in adapted_modules(net).values():
        assert all(p.grad.any() for p in module.adapter.parameters())
    net.bfloat16()
    assert net(torch.randn(1, 3, 64, 64).bfloat16()).dtype == torch.bfloat16
