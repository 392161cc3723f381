"""Rein: tokens that refine features between the blocks."""

import copy
import math

import pytest
import timm
import torch
from mmengine.registry import MODELS
from plain_transformers import SMALL
from torch import nn

import mmflora
from mmflora.adapters import adapted_modules, disabled, inject, merge, unload
from mmflora.adapters.shared import sharing_layers
from mmflora.models import build_timm_backbone

EXACT = dict(rtol=1e-10, atol=1e-12)
SETTINGS = dict(type='Rein', tokens=5, rank=3)
# Name, how many tokens stand before the patches.
PLAIN = {
    'class token': ('vit_tiny_patch16_224', 1),
    'rotary, registers': ('vit_small_patch16_dinov3', 5),
    'no class token': ('vit_tiny_patch16_224', 0),
}


@pytest.fixture(params=PLAIN.values(), ids=PLAIN)
def net(request, randomise):
    name, count = request.param
    options = {} if count else dict(class_token=False, global_pool='avg')
    backbone = build_timm_backbone(
        name, [0, 2], **SMALL, img_size=64, **options
    ).double()
    randomise(backbone.parameters())
    return backbone.eval(), count


def adapted(backbone, count, randomise, **options):
    inject(backbone, SETTINGS | dict(prefix_tokens=count) | options)
    for block in adapted_modules(backbone).values():
        randomise(block.adapter.parameters())
    return backbone


def picture():
    return torch.randn(2, 3, 64, 48, dtype=torch.float64)


def refined(block, shared, features):
    """Return f + γ ((S[2:m] (T[2:m] W_T + b_T) + f) W_f + b_f)."""
    tokens = block.adapter.left @ block.adapter.right
    scores = torch.einsum('nlc,mc->nlm', features, tokens) / math.sqrt(16)
    share = scores.exp() / scores.exp().sum(-1, keepdim=True)
    values = tokens @ shared['token_weight'].T + shared['token_bias']
    mixed = torch.einsum('nlm,mc->nlc', share[..., 1:], values[1:]) + features
    moved = mixed @ shared['feature_weight'].T + shared['feature_bias']
    return features + shared['scale'] * moved


def test_features_are_the_papers(net, randomise):
    backbone, count = net
    stock = copy.deepcopy(backbone)
    assert stock.num_prefix_tokens == count
    adapted(backbone, count, randomise)
    shared = backbone.blocks[0].adapter.shared['16']
    inputs = picture()
    x = stock._pos_embed(stock.patch_embed(inputs))
    x, *rope = x if isinstance(x, tuple) else (x,)
    wanted = []
    for index, block in enumerate(stock.blocks):
        x = block(x, rope=rope[0]) if rope else block(x)
        first, features = x[:, :count], x[:, count:]
        features = refined(backbone.blocks[index], shared, features)
        x = torch.cat([first, features], dim=1)
        if index in (0, 2):
            wanted.append(features.transpose(1, 2).unflatten(2, (4, 3)))
    for feature, expected in zip(backbone(inputs), wanted, strict=True):
        torch.testing.assert_close(feature, expected, **EXACT)


def test_starts_near_the_frozen_model(net):
    backbone, count = net
    inputs = picture()
    expected = backbone(inputs)
    keys = list(backbone.state_dict())
    inject(backbone, dict(type='Rein', prefix_tokens=count))
    found = backbone(inputs)
    for feature, frozen in zip(found, expected, strict=True):
        assert not torch.equal(feature, frozen)
        change = (feature - frozen).norm() / frozen.norm()
        # Three blocks, each of which adds 0.001 times about its input.
        assert change < 0.02
    with disabled(backbone):
        assert all(map(torch.equal, backbone(inputs), expected))
    unload(backbone)
    assert all(map(torch.equal, backbone(inputs), expected))
    assert list(backbone.state_dict()) == keys


def test_matrices_are_shared_and_saved_once(net, randomise, tmp_path):
    backbone, count = net
    stock = copy.deepcopy(backbone)
    adapted(backbone, count, randomise)
    blocks = [f'blocks.{i}' for i in range(3)]
    assert sharing_layers(backbone) == blocks
    own = [key for key in backbone.state_dict() if 'adapter' in key]
    assert len(own) == len(set(own)) == 3 * 2 + 5
    assert all('.0.' in key for key in own if 'shared' in key)
    inputs = picture()
    expected = backbone(inputs)
    path = mmflora.save_adapter(backbone, tmp_path / 'rein.safetensors')
    loaded = mmflora.load_adapter(stock, path)
    assert all(map(torch.equal, loaded(inputs), expected))
    other = copy.deepcopy(loaded)
    assert other.blocks[1].adapter.shared is other.blocks[0].adapter.shared
    with pytest.raises(ValueError, match='Rein cannot be merged.*attention'):
        merge(backbone)


def gradients(backbone, inputs):
    backbone.zero_grad()
    sum(feature.square().mean() for feature in backbone(inputs)).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize('lean', [False, True], ids=['', 'lean'])
def test_recomputed_blocks_have_the_same_gradients(net, lean, randomise):
    backbone, count = net
    inject(backbone, SETTINGS | dict(prefix_tokens=count), lean=lean)
    randomise(p for p in backbone.parameters() if p.requires_grad)
    inputs = picture()
    expected = gradients(backbone.train(), inputs)
    assert all(gradient.any() for gradient in expected.values())
    backbone.set_grad_checkpointing(True)
    for name, gradient in gradients(backbone, inputs).items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


def test_golden_count_of_vit_l():
    """Of DINOv2-L: 24 blocks of width 1024, worked out by hand."""
    with torch.device('meta'):
        model = timm.create_model('vit_large_patch14_dinov2', num_classes=0)
    inject(model, dict(type='Rein', tokens=100, rank=16, patch_size=14))
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = 24 * (100 * 16 + 16 * 1024)
    matrices = 2 * (1024 * 1024 + 1024)
    assert count == tokens + matrices + 1 == 2_530_817


def test_half_precision_and_autocast():
    backbone = build_timm_backbone('vit_tiny_patch16_224', [2], **SMALL)
    backbone.to(torch.bfloat16)
    inject(backbone, SETTINGS)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    inputs = torch.randn(1, 3, 32, 32)
    (feature,) = backbone(inputs.bfloat16())
    assert feature.dtype == torch.bfloat16
    feature.float().square().sum().backward()
    assert all(p.grad.any() for p in trained)
    backbone.float().zero_grad()
    with torch.autocast('cpu', torch.bfloat16):
        backbone(inputs)[0].float().square().sum().backward()
    assert all(p.grad.any() for p in trained)


def test_intern_vit(randomise):
    backbone = MODELS.build(
        dict(
            type='mmflora.InternViT',
            img_size=32,
            patch_size=8,
            embed_dims=16,
            depth=4,
            num_heads=2,
            out_indices=(0, 1, 2, 3),
            with_cp='mlp',
        )
    ).double()
    randomise(backbone.parameters())
    inputs = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    frozen = backbone(inputs)
    adapted(backbone, 1, randomise)
    found = backbone(inputs)
    assert not any(map(torch.equal, found, frozen))
    found[3].sum().backward()
    assert backbone.blocks[0].adapter.left.grad.any()


def test_maps_with_their_channels_last(randomise):
    """SAM's blocks have no class token, and maps instead of lists."""
    model = timm.create_model(
        'samvit_base_patch16',
        **SMALL,
        img_size=64,
        window_size=3,
        global_attn_indexes=(2,),
    ).double()
    inject(model, SETTINGS)
    block = model.blocks[0]
    randomise(block.adapter.parameters())
    image = torch.randn(2, 4, 4, 16, dtype=torch.float64)
    with disabled(model):
        plain = block(image).flatten(1, 2)
    expected = refined(block, block.adapter.shared['16'], plain)
    torch.testing.assert_close(block(image).flatten(1, 2), expected, **EXACT)


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(tokens=1), 'tokens=1, but the first'),
        (dict(rank=0), 'rank=0'),
        (dict(prefix_tokens=-1), 'prefix_tokens=-1'),
    ],
)
def test_bad_settings(options, text):
    model = timm.create_model('vit_tiny_patch16_224', **SMALL)
    with pytest.raises(ValueError, match=text) as caught:
        inject(model, SETTINGS | options)
    assert "'blocks.0' (Block" in str(caught.value)


def test_convolutions_are_refused():
    model = timm.create_model('convnext_atto', num_classes=0)
    with pytest.raises(ValueError, match='has a Conv2d with a kernel'):
        inject(model, SETTINGS)
    net = nn.ModuleDict(dict(blocks=nn.ModuleList([nn.Linear(4, 4)])))
    with pytest.raises(ValueError, match='has no attention'):
        inject(net, SETTINGS)
