"""InternViT against a plain implementation, its options and its counts."""

import pytest
import torch
import torch.nn.functional as F
from intern_vit_reference import intern_vit

from mmflora.models import InternViT
from mmflora.models.plain.intern_vit_features import RMSNorm

EXACT = dict(rtol=1e-10, atol=1e-12)
SMALL = dict(
    img_size=56,
    embed_dims=24,
    depth=5,
    num_heads=3,
    mlp_ratio=2.0,
    out_indices=(0, 1, 3, 4),
)


def images(height=56, width=None, batch=2):
    return torch.randn(batch, 3, height, width or height, dtype=torch.float64)


def random_backbone(randomise, kind=InternViT, **options):
    backbone = kind(**{**SMALL, **options}).double()
    randomise(backbone.parameters())
    return backbone


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(pyramid=False),
        dict(pyramid=False, out_indices=(2,)),
        dict(patch_size=8),
        dict(img_size=(28, 84)),
        dict(qkv_bias=True),
    ],
    ids=['pyramid', 'plain', 'one block', 'patch 8', 'oblong', 'biases'],
)
@pytest.mark.parametrize('size', [(56, 56), (112, 56), (168, 280)], ids=str)
def test_equals_the_plain_implementation(options, size, randomise):
    backbone = random_backbone(randomise, **options)
    patch = options.get('patch_size', 14)
    size = tuple(side // 14 * patch for side in size)
    weights = dict(backbone.named_parameters())
    inputs = images(*size)
    features = backbone(inputs)
    expected = intern_vit(
        inputs,
        weights,
        SMALL['num_heads'],
        backbone.out_indices,
        backbone.grid_size,
    )
    assert len(features) == len(backbone.out_indices)
    for feature, wanted in zip(features, expected, strict=True):
        assert feature.is_contiguous()
        torch.testing.assert_close(feature, wanted, **EXACT)


def test_gradients_equal_those_of_the_plain_implementation(randomise):
    backbone = random_backbone(randomise)
    weights = dict(backbone.named_parameters())
    inputs = images().requires_grad_()
    features = backbone(inputs)
    chosen = [inputs, *weights.values()]
    factors = [torch.randn_like(feature) for feature in features]
    found, expected = (
        torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(outputs, factors, strict=True)),
            chosen,
        )
        for outputs in (
            features,
            intern_vit(inputs, weights, 3, SMALL['out_indices'], (4, 4)),
        )
    )
    for one, other, name in zip(
        found, expected, ['images', *weights], strict=True
    ):
        assert other.any(), name
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_levels_of_the_pyramid():
    backbone = InternViT(**SMALL)
    features = backbone(images(70, 98).float())
    assert [tuple(feature.shape) for feature in features] == [
        (2, 24, 20, 28),
        (2, 24, 10, 14),
        (2, 24, 5, 7),
        (2, 24, 2, 3),
    ]
    assert all(feature.is_contiguous() for feature in features)
    assert backbone.out_channels == (24,) * 4


def test_images_without_whole_patches_are_resized(randomise):
    backbone = random_backbone(randomise)
    inputs = images(57, 45)
    resized = F.interpolate(inputs, size=(70, 56), mode='bilinear')
    for feature, wanted in zip(
        backbone(inputs), backbone(resized), strict=True
    ):
        assert torch.equal(feature, wanted)


def test_blocks_after_the_last_output_are_not_built(randomise):
    whole = random_backbone(randomise, pyramid=False, out_indices=(1, 4))
    part = InternViT(**{**SMALL, 'pyramid': False, 'out_indices': (1,)})
    part.double().load_state_dict(
        {key: whole.state_dict()[key] for key in part.state_dict()}
    )
    assert len(part.blocks) == 2
    inputs = images()
    assert torch.equal(part(inputs)[0], whole(inputs)[0])


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (dict(out_indices=(0, 1, 3, 5)), '(0, 1, 3, 5)'),
        (dict(out_indices=()), 'ascending'),
        (dict(out_indices=(1, 0, 2, 3)), '(1, 0, 2, 3)'),
        (dict(out_indices=(0, 1)), 'pyramid=False'),
        (dict(img_size=60), '60'),
        (dict(img_size=(56, 7)), '(56, 7)'),
        (dict(with_cp='attn'), "'attn'"),
        (dict(dtype='bf16'), 'bfloat16'),
        (dict(autocast='bf16'), 'bfloat16'),
    ],
    ids=lambda value: '' if isinstance(value, str) else str(value),
)
def test_bad_options(options, part):
    with pytest.raises(ValueError, match='.') as caught:
        InternViT(**{**SMALL, **options})
    assert part in str(caught.value)


def test_norms_have_float32_statistics():
    x = torch.randn(4, 512).mul_(100).bfloat16()
    norm = RMSNorm(512, eps=1e-6)
    norm.weight.data.uniform_(0.5, 2.0)
    wide = x.double()
    expected = wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    for weight_type in (torch.float32, torch.bfloat16):
        norm = norm.to(weight_type)
        output = norm(x)
        assert output.dtype == torch.bfloat16
        wanted = expected * norm.weight.bfloat16()
        # One rounding to 8 significant bits.
        torch.testing.assert_close(output.double(), wanted, rtol=2**-8, atol=0)


def test_drop_path_grows_linearly_and_acts_in_training_alone(randomise):
    backbone = random_backbone(randomise, drop_path_rate=0.8)
    rates = [
        getattr(block.drop_path2, 'drop_prob', 0.0)
        for block in backbone.blocks
    ]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    plain = InternViT(**SMALL).double()
    plain.load_state_dict(backbone.state_dict())
    inputs = images()
    expected = plain(inputs)[-1]
    assert torch.equal(backbone.eval()(inputs)[-1], expected)
    assert not torch.equal(backbone.train()(inputs)[-1], expected)


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('autocast', [None, 'bfloat16'])
def test_features_are_float32(dtype, autocast):
    backbone = InternViT(**SMALL, dtype=dtype, autocast=autocast)
    weight = backbone.blocks[0].attn.qkv.weight
    assert weight.dtype == getattr(torch, dtype or 'float32')
    assert backbone.pyramid.up2[0].weight.dtype == torch.float32
    seen = []
    backbone.blocks[1].mlp.fc1.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    features = backbone(images().float())
    assert all(feature.dtype == torch.float32 for feature in features)
    assert all(feature.is_contiguous() for feature in features)
    half = dtype or autocast
    assert seen == [getattr(torch, half or 'float32')]


def test_half_precision_is_near_to_full():
    full = InternViT(**SMALL)
    half = InternViT(**SMALL, dtype='bfloat16', autocast='bfloat16')
    half.load_state_dict(full.state_dict())
    inputs = images().float()
    for one, other in zip(full(inputs), half(inputs), strict=True):
        # Five blocks, each of a few roundings to 8 bits.
        error = (one - other).norm() / one.norm()
        assert 0 < error < 0.03


@pytest.mark.parametrize(
    ('depth', 'out_indices', 'count'),
    [
        (48, (11, 23, 35, 47), 5_902_793_600),
        (45, (11, 22, 33, 44), 5_534_038_400),
    ],
    ids=['48 blocks', '45 blocks'],
)
def test_size_of_the_published_models(depth, out_indices, count):
    with torch.device('meta'):
        backbone = InternViT(depth=depth, out_indices=out_indices)
    sizes = {
        name: parameter.numel()
        for name, parameter in backbone.named_parameters()
    }
    new = sum(sizes[name] for name in sizes if name.startswith('pyramid.'))
    assert sum(sizes.values()) - new == count
    # Three transposed convolutions and a norm.
    assert new == 3 * (4 * 3200 * 3200 + 3200) + 2 * 3200
