"""The pyramid against a plain implementation, its options and its keys."""

import pytest
import torch
from intern_vit_reference import channel_norm, gelu, max_pool, transposed_conv
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrotate.registry import MODELS as MMROTATE_MODELS
from mmseg.registry import MODELS as MMSEG_MODELS

from mmflora.export import plain_config
from mmflora.models import InternViT, SimplePyramid

EXACT = dict(rtol=1e-10, atol=1e-12)


def conv(x, weight):
    """Sum shifted copies of the map, zeros around it."""
    reach = weight.shape[-1] // 2
    padded = x.new_zeros(*x.shape[:2], *(s + 2 * reach for s in x.shape[2:]))
    rows, columns = x.shape[2:]
    padded[..., reach : reach + rows, reach : reach + columns] = x
    return sum(
        torch.einsum(
            'ncij,oc->noij',
            padded[..., a : a + rows, b : b + columns],
            weight[..., a, b],
        )
        for a in range(2 * reach + 1)
        for b in range(2 * reach + 1)
    )


def expected(maps, weights, convs=True, more=0):
    """ViTDet's SimpleFeaturePyramid with scales 4, 2, 1 and 1/2."""
    first, second, third, fourth = maps * (4 // len(maps))
    first = transposed_conv(first, weights, 'up1.0')
    first = gelu(channel_norm(first, weights, 'up1.1'))
    first = transposed_conv(first, weights, 'up1.3')
    second = transposed_conv(second, weights, 'up2.0')
    levels = [first, second, third, max_pool(fourth)]
    for i in range(4 if convs else 0):
        name = f'out{i + 1}'
        x = conv(levels[i], weights[f'{name}.0.weight'])
        x = channel_norm(x, weights, f'{name}.1')
        x = conv(x, weights[f'{name}.2.weight'])
        levels[i] = channel_norm(x, weights, f'{name}.3')
    for _ in range(more):
        levels.append(levels[-1][..., ::2, ::2])
    return levels


CASES = {
    'ViTDet': (dict(in_channels=8, out_channels=6, num_outs=5), 6),
    'one block in a list': (dict(in_channels=[8], out_channels=6), 6),
    'four blocks': (dict(in_channels=[8] * 4, out_channels=6), 6),
    'no convolutions': (
        dict(in_channels=8, out_channels=None),
        (2, 4, 8, 8),
    ),
    'InternViT': (
        dict(in_channels=[8] * 4, out_channels=None, halve_channels=False),
        8,
    ),
}


@pytest.mark.parametrize(('options', 'channels'), CASES.values(), ids=CASES)
def test_equals_the_plain_implementation(options, channels, randomise):
    torch.manual_seed(0)
    pyramid = SimplePyramid(**options).double()
    randomise(pyramid.parameters())
    count = 4 if options['in_channels'] == [8] * 4 else 1
    maps = [
        torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
        for _ in range(count)
    ]
    weights = dict(pyramid.named_parameters())
    found = pyramid(maps[0] if options['in_channels'] == 8 else tuple(maps))
    more = options.get('num_outs', 4) - 4
    wanted = expected(maps, weights, options['out_channels'], more)
    if isinstance(channels, int):
        channels = (channels,) * len(found)
    assert tuple(pyramid.out_channels) == channels
    assert isinstance(found, tuple)
    assert len(found) == len(wanted)
    for one, other, width in zip(found, wanted, channels, strict=True):
        assert one.shape[1] == width
        assert one.is_contiguous()
        torch.testing.assert_close(one, other, **EXACT)
    factors = [torch.randn_like(one) for one in found]
    chosen = [*maps, *weights.values()]
    gradients = [
        torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(outputs, factors, strict=True)),
            chosen,
        )
        for outputs in (found, wanted)
    ]
    for one, other in zip(*gradients, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_interns_pyramid_has_its_old_keys():
    pyramid = InternViT(
        img_size=28, embed_dims=8, depth=4, num_heads=1, out_indices=range(4)
    ).pyramid
    assert isinstance(pyramid, SimplePyramid)
    assert [name for name, _ in pyramid.named_parameters()] == [
        f'{layer}.{name}'
        for layer in ('up1.0', 'up1.1', 'up1.3', 'up2.0')
        for name in ('weight', 'bias')
    ]


def test_keeps_the_size_of_the_signal():
    torch.manual_seed(0)
    pyramid = SimplePyramid(64, None, halve_channels=False)
    image = torch.randn(1, 64, 6, 6)
    outputs = pyramid([image])
    assert outputs[1].std().item() == pytest.approx(1.0, rel=0.1)
    assert outputs[2] is image


@pytest.mark.parametrize(
    'registry', [MMDET_MODELS, MMSEG_MODELS, MMROTATE_MODELS], ids=str
)
def test_every_toolkit_finds_it(registry):
    init_default_scope(registry.scope)
    neck = registry.build(dict(type='mmflora.SimplePyramid', in_channels=8))
    assert isinstance(neck, SimplePyramid)


def test_leaves_with_a_merged_model(tmp_path):
    neck = dict(type='mmflora.SimplePyramid', in_channels=8, out_channels=6)
    cfg = Config(dict(model=dict(type='FasterRCNN', neck=neck)))
    files = plain_config(cfg).write(tmp_path / 'plain.py')
    assert [path.name for path in files] == ['merged_pyramid.py', 'plain.py']
    plain = Config.fromfile(files[1])
    assert plain.model.neck == {**neck, 'type': 'SimplePyramid'}
    assert 'mmflora' not in ''.join(path.read_text() for path in files)


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (dict(in_channels=[8, 8]), 'each of the 4 scales'),
        (dict(in_channels=6), 'halve_channels=False'),
        (dict(in_channels=8, scales=(4, 3, 1)), 'powers of two'),
        (dict(in_channels=8, scales=()), 'powers of two'),
        (dict(in_channels=8, num_outs=3), 'num_outs=3'),
    ],
    ids=str,
)
def test_bad_options(options, part):
    with pytest.raises(ValueError, match=part):
        SimplePyramid(**options)


@pytest.mark.parametrize('shapes', [(8, 8), (4,), ()], ids=str)
def test_maps_of_another_backbone(shapes):
    pyramid = SimplePyramid(8)
    maps = [torch.zeros(1, width, 4, 4) for width in shapes]
    with pytest.raises(ValueError, match='out_indices') as caught:
        pyramid(maps)
    assert str(list(shapes)) in str(caught.value)
