"""Prompt tokens (VPT) in plain transformers."""

import copy
import re
from pathlib import Path

import pytest
import timm
import torch
from backbone_cases import CASES, images, in_mode
from mmengine.registry import MODELS
from plain_transformers import NETS, SMALL
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmflora
from mmflora.adapters import adapted_modules, disabled, inject, merge, unload
from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.models import build_timm_backbone

EXACT = dict(rtol=1e-10, atol=1e-12)
PLAIN = {
    'class token': ('vit_tiny_patch16_224', dict(SMALL, img_size=64)),
    **{name: net for name, net in NETS.items() if name != 'SAM'},
    'rotary, mixed': (
        'vit_small_patch16_rope_mixed_224',
        dict(SMALL, img_size=64),
    ),
}
FORMS = ('deep', 'shallow')
COUNT = 3


@pytest.fixture(params=PLAIN.values(), ids=PLAIN)
def net(request):
    return request.param


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def picture(height=64, width=48):
    return torch.randn(2, 3, height, width, dtype=torch.float64)


def build(net, randomise, **options):
    name, small = net
    backbone = build_timm_backbone(
        name, **dict(dict(small, out_indices=(0, 2)), **options)
    )
    randomise(backbone.double().parameters())
    return backbone.eval()


def prompted(backbone, form, **options):
    settings = dict(type='VPT', tokens=COUNT, form=form, **options)
    inject(backbone, settings)
    for block in adapted_modules(backbone).values():
        for parameter in block.adapter.parameters():
            nn.init.normal_(parameter)
    return backbone


def prompts_of(backbone):
    return [block.adapter.prompts for block in backbone.blocks]


def by_the_paper(stock, prompts, inputs):
    """Return features as the paper has them: [x, P, E] in each block.

    The prompts stand between the class and register tokens and the patches,
    and timm is told that they are such tokens, which it does not rotate.
    """
    tokens, rope = stock._pos_embed(stock.patch_embed(inputs)), None
    if isinstance(tokens, tuple):
        tokens, rope = tokens
    x, patches = tokens.tensor_split([stock.num_prefix_tokens], dim=1)
    features, carried = [], None
    for index, block in enumerate(stock.blocks):
        own = prompts[index]
        if own is not None:
            carried = own.expand(len(inputs), -1, -1)
        named = {}
        if rope is not None:
            block.attn.num_prefix_tokens = stock.num_prefix_tokens + COUNT
            named['rope'] = rope[index] if stock.rope_mixed else rope
        output = block(torch.cat([x, carried, patches], dim=1), **named)
        x, carried, patches = output.tensor_split(
            [x.shape[1], x.shape[1] + COUNT], dim=1
        )
        if index in stock.out_indices:
            features.append(patches)
    return features


def test_features_are_the_papers(net, form, randomise):
    backbone = build(net, randomise)
    stock = copy.deepcopy(backbone)
    prompted(backbone, form)
    side = backbone.patch[0]
    inputs = picture(4 * side, 3 * side)
    wanted = by_the_paper(stock, prompts_of(backbone), inputs)
    for feature, expected in zip(backbone(inputs), wanted, strict=True):
        # Neither prompts nor class tokens are in the map.
        assert feature.shape == (2, 16, 4, 3)
        torch.testing.assert_close(
            feature.flatten(2).transpose(1, 2), expected, **EXACT
        )


def test_not_the_identity_but_switched_off_it_is(net, form, randomise):
    backbone = build(net, randomise)
    inputs = picture()
    expected = backbone(inputs)
    keys = list(backbone.state_dict())
    inject(backbone, dict(type='VPT', tokens=COUNT, form=form))
    # One more key in the softmax changes every output.
    first = backbone(inputs)
    assert not torch.allclose(first[0], expected[0])
    with disabled(backbone):
        assert all(map(torch.equal, backbone(inputs), expected))
    assert all(map(torch.equal, backbone(inputs), first))
    own = [key for key in backbone.state_dict() if '.adapter.' not in key]
    assert own == keys
    unload(backbone)
    assert all(map(torch.equal, backbone(inputs), expected))
    assert list(backbone.state_dict()) == keys


def gradients(backbone, inputs):
    backbone.zero_grad()
    sum(feature.square().mean() for feature in backbone(inputs)).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize('lean', [False, True], ids=['', 'lean'])
def test_recomputed_blocks_have_the_same_gradients(net, form, lean, randomise):
    backbone = build(net, randomise)
    inject(backbone, dict(type='VPT', tokens=COUNT, form=form), lean=lean)
    backbone.train()
    inputs = picture()
    expected = gradients(backbone, inputs)
    backbone.set_grad_checkpointing(True)
    found = gradients(backbone, inputs)
    assert len(found) == (3 if form == 'deep' else 1)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, expected[name], **EXACT)


def windowed_by_hand(block, tokens, prompts, grid, prefix, rope):
    """Compute a block whose attention sees one window of 2 × 2 at a time."""
    normed = block.norm1(torch.cat([tokens, prompts], dim=1))
    first, image, last = normed.tensor_split([prefix, tokens.shape[1]], dim=1)
    image = image.unflatten(1, grid)
    out = torch.zeros_like(image)
    shared = []
    for row in range(0, grid[0], 2):
        for column in range(0, grid[1], 2):
            window = image[:, row : row + 2, column : column + 2]
            cut = window.flatten(1, 2)
            named = {}
            if rope is not None:
                turn = rope.unflatten(0, grid)
                turn = turn[row : row + 2, column : column + 2]
                named['rope'] = turn.flatten(0, 1)
                block.attn.num_prefix_tokens = prefix + COUNT
            seen = block.attn(torch.cat([first, last, cut], 1), **named)
            shared.append(seen[:, : prefix + COUNT])
            out[:, row : row + 2, column : column + 2] = seen[
                :, prefix + COUNT :
            ].unflatten(1, (2, 2))
    mean = torch.stack(shared).mean(0)
    branch = torch.cat(
        [mean[:, :prefix], out.flatten(1, 2), mean[:, prefix:]], dim=1
    )
    gains = [getattr(block, name, None) for name in ('gamma_1', 'gamma_2')]
    scale = [(lambda y, g=g: y if g is None else g * y) for g in gains]
    ls1 = getattr(block, 'ls1', nn.Identity())
    ls2 = getattr(block, 'ls2', nn.Identity())
    x = torch.cat([tokens, prompts], dim=1) + scale[0](ls1(branch))
    return x + scale[1](ls2(block.mlp(block.norm2(x))))


@pytest.mark.parametrize('name', ['registers', 'rotary, registers'])
def test_windows_have_the_prompts_each(name, form, randomise):
    backbone = build(
        PLAIN[name], randomise, attention_window=2, out_indices=(1,)
    )
    stock = copy.deepcopy(backbone)
    for block in stock.blocks:
        block.attn._forward_hooks.clear()
        block.attn._forward_pre_hooks.clear()
    prompted(backbone, form)
    side, grid = backbone.patch[0], (4, 2)
    inputs = picture(4 * side, 2 * side)
    tokens, rope = stock._pos_embed(stock.patch_embed(inputs)), None
    if isinstance(tokens, tuple):
        tokens, rope = tokens
    carried = None
    for block, own in zip(stock.blocks, prompts_of(backbone), strict=True):
        carried = carried if own is None else own.expand(2, -1, -1)
        output = windowed_by_hand(
            block, tokens, carried, grid, stock.num_prefix_tokens, rope
        )
        tokens, carried = output[:, :-COUNT], output[:, -COUNT:]
    image = tokens[:, stock.num_prefix_tokens :].transpose(1, 2)
    (feature,) = backbone(inputs)
    torch.testing.assert_close(feature, image.unflatten(2, grid), **EXACT)
    # A window that the picture does not fill, and recomputed blocks.
    odd = picture(3 * side, side)
    expected = gradients(backbone, odd)
    backbone.set_grad_checkpointing(True)
    for name, gradient in gradients(backbone, odd).items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


VIT_LIKE = ('mmseg VisionTransformer', 'mmflora InternViT')


def intern_vit(**options):
    return MODELS.build(
        dict(
            type='mmflora.InternViT',
            img_size=32,
            patch_size=8,
            embed_dims=16,
            depth=4,
            num_heads=2,
            out_indices=(0, 1, 2, 3),
            **options,
        )
    ).double()


def test_intern_vit(form, randomise):
    backbone = intern_vit(pyramid=False)
    randomise(backbone.parameters())
    stock = copy.deepcopy(backbone)
    prompted(backbone, form)
    inputs = picture(32, 32)
    x = stock.patch_embed(inputs)
    x = torch.cat([stock.cls_token.expand(2, -1, -1), x], 1) + stock.pos_embed
    carried, wanted = None, []
    for block, own in zip(stock.blocks, prompts_of(backbone), strict=True):
        carried = carried if own is None else own.expand(2, -1, -1)
        x, carried = block(torch.cat([x, carried], 1)).tensor_split([17], 1)
        wanted.append(x[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    for feature, expected in zip(backbone(inputs), wanted, strict=True):
        torch.testing.assert_close(feature, expected, **EXACT)


@pytest.mark.parametrize('with_cp', [True, 'mlp'])
def test_intern_vit_recomputed(form, with_cp, randomise):
    plain, recomputed = intern_vit(), intern_vit(with_cp=with_cp)
    randomise(plain.parameters())
    recomputed.load_state_dict(plain.state_dict())
    inputs = picture(32, 32)
    prompted(plain, form)
    prompted(recomputed, form).load_state_dict(plain.state_dict())
    expected = gradients(plain, inputs)
    for name, gradient in gradients(recomputed, inputs).items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


def test_vision_transformer_of_mmsegmentation(form):
    case = CASES['mmseg VisionTransformer']
    backbone = in_mode(MODELS.build(dict(case.config)))
    inputs = images(case)
    with torch.no_grad():
        expected = backbone(inputs)
        report = inject(backbone, dict(type='VPT', tokens=2, form=form))
        assert all(name.startswith('layers.') for name in report.adapted)
        assert len(report.adapted) == len(backbone.layers)
        found = backbone(inputs)
    for feature, frozen in zip(found, expected, strict=True):
        assert feature.shape == frozen.shape
        assert not torch.allclose(feature, frozen)


@pytest.mark.parametrize(
    ('form', 'wanted'),
    # p · C, and N · p · C, worked out by hand for ViT-B: C = 768, N = 12.
    [('shallow', 50 * 768), ('deep', 12 * 50 * 768)],
)
def test_golden_counts_of_vit_b(form, wanted):
    with torch.device('meta'):
        model = timm.create_model('vit_base_patch16_224', num_classes=0)
    inject(model, dict(type='VPT', tokens=50, form=form))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == wanted


def test_the_example_of_the_page_is_true():
    page = Path(__file__).parents[2] / 'docs/plain-transformers.md'
    section = page.read_text().split('## Prompt tokens')[1]
    code = section.split('```python')[1].split('```')[0]
    known: dict = {}
    exec(code, known)
    config = known['backbone']
    config['backbone']['init_cfg'] = None
    config['peft']['allow_random_base'] = True
    backbone = MODELS.build(config)
    count = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert '12 · 50 · 384 parameters' in section
    assert count == 12 * 50 * 384
    pattern = re.search(r"targets=r'(.*)'` prompts", section)[1]
    report = inject(
        timm.create_model('vit_tiny_patch16_224', embed_dim=6, depth=12),
        dict(type='VPT', tokens=1),
        pattern,
    )
    assert report.adapted == [f'blocks.{i}' for i in range(6, 12)]


@pytest.mark.parametrize('patch_size', [16, 2])
def test_start_is_the_papers(patch_size):
    model = timm.create_model('vit_tiny_patch16_224', **SMALL)
    inject(model, dict(type='VPT', tokens=400, patch_size=patch_size))
    bound = (6 / (3 * patch_size**2 + 16)) ** 0.5
    drawn = torch.stack(prompts_of(model)).detach()
    assert drawn.abs().max() <= bound
    # Uniform: 19200 values reach the bound, and their variance is bound² / 3.
    assert drawn.abs().max() > 0.99 * bound
    assert drawn.var() == pytest.approx(bound**2 / 3, rel=0.05)
    assert not torch.equal(drawn[0], drawn[1])


def test_dropout_is_of_the_prompts_in_training_alone(randomise):
    backbone = build(PLAIN['class token'], randomise, out_indices=(0,))
    prompted(backbone, 'deep', dropout=0.5)
    inputs = picture()
    (feature,) = backbone(inputs)
    assert torch.equal(backbone(inputs)[0], feature)
    backbone.train()
    assert not torch.equal(backbone(inputs)[0], backbone(inputs)[0])


def test_saved_and_loaded(form, randomise, tmp_path):
    backbone = build(PLAIN['rotary, registers'], randomise)
    stock = copy.deepcopy(backbone)
    prompted(backbone, form)
    inputs = picture()
    expected = backbone(inputs)
    path = mmflora.save_adapter(backbone, tmp_path / 'prompts.safetensors')
    loaded = mmflora.load_adapter(stock, path)
    assert all(map(torch.equal, loaded(inputs), expected))
    assert all(map(torch.equal, copy.deepcopy(loaded)(inputs), expected))


def test_cannot_be_merged(form, randomise):
    backbone = prompted(build(PLAIN['class token'], randomise), form)
    inputs = picture()
    expected = backbone(inputs)
    with pytest.raises(ValueError, match='no weight can hold') as caught:
        merge(backbone)
    assert "'blocks.0': VPT cannot be merged" in str(caught.value)
    assert all(map(torch.equal, backbone(inputs), expected))


def test_prompts_do_not_decay(form):
    backbone = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(
                type='mmflora.TimmBackbone',
                model_name='vit_tiny_patch16_224',
                out_indices=[2],
                **SMALL,
            ),
            peft=dict(
                adapter=dict(type='VPT', tokens=2, form=form),
                allow_random_base=True,
            ),
        )
    )
    trains = [item for item in parameter_roles(backbone) if item.trains]
    assert len(trains) == (3 if form == 'deep' else 1)
    for item in trains:
        assert item.role is Role.ADAPTER
        assert not item.decays


def test_half_precision_and_autocast(form):
    backbone = build_timm_backbone('vit_tiny_patch16_224', [2], **SMALL)
    backbone.to(torch.bfloat16)
    inject(backbone, dict(type='VPT', tokens=2, form=form))
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    inputs = torch.randn(1, 3, 32, 32)
    (feature,) = backbone(inputs.bfloat16())
    assert feature.dtype == torch.bfloat16
    feature.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in trained)
    backbone.float().zero_grad()
    with torch.autocast('cpu', torch.bfloat16):
        backbone(inputs)[0].float().sum().backward()
    assert all(p.grad.any() for p in trained)


REFUSED = {
    'ConvNeXt': ('convnext_atto', {}, 'has a Conv2d with a kernel'),
    'Swin': (
        'swin_tiny_patch4_window7_224',
        dict(embed_dim=8, num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1)),
        'with a kernel|window_size needs',
    ),
    'SAM': (*NETS['SAM'], 'needs one of each token'),
    'BEiT': (
        'beit_base_patch16_224',
        dict(SMALL, img_size=32),
        'relative_position_bias_table|window_size needs',
    ),
    'MLP-Mixer': ('mixer_s32_224', {}, 'has no attention'),
    'ResNet': ('resnet18', {}, 'none of the modules of ResNet'),
}


@pytest.mark.parametrize(
    ('name', 'options', 'text'), REFUSED.values(), ids=REFUSED
)
def test_other_backbones_are_refused(name, options, text):
    model = timm.create_model(name, num_classes=0, **options)
    with pytest.raises(ValueError, match=text) as caught:
        inject(model, dict(type='VPT', tokens=2))
    assert (
        'VPT' in str(caught.value)
        or 'plain' in str(caught.value)
        or ('prompts' in str(caught.value))
    )
    assert not adapted_modules(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_gap_in_the_shallow_form_is_refused():
    model = timm.create_model('vit_tiny_patch16_224', **SMALL)
    settings = dict(type='VPT', tokens=2, form='shallow')
    with pytest.raises(ValueError, match="'blocks.2'.*'blocks.1' is not"):
        inject(model, settings, exclude=r'blocks\.1')
    assert not adapted_modules(model)
    inject(model, settings, exclude=r'blocks\.0')
    assert [key for key in model.state_dict() if 'adapter' in key] == [
        'blocks.1.adapter.prompts'
    ]


def test_what_comes_into_a_block_is_checked():
    model = timm.create_model('vit_tiny_patch16_224', **SMALL)
    inject(model, dict(type='VPT', tokens=2, form='shallow'))
    block, follower = model.blocks[:2]
    with pytest.raises(ValueError, match=r"'blocks.0': .*\(2, 4, 4, 16\)"):
        block(torch.randn(2, 4, 4, 16))
    with pytest.raises(ValueError, match=r'\(2, 4, 8\)'):
        block(torch.randn(2, 4, 8))
    with pytest.raises(ValueError, match="tensor 'attn_mask'"):
        block(torch.randn(2, 4, 16), attn_mask=torch.ones(4, 4))
    with pytest.raises(ValueError, match="'blocks.1': .*without the prompts"):
        follower(torch.randn(2, 4, 16))
    tokens = block(torch.randn(2, 4, 16))
    loss = checkpoint(follower, tokens, use_reentrant=True).sum()
    with pytest.raises(ValueError, match='re-entrant'):
        loss.backward()


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(tokens=0), 'tokens=0'),
        (dict(form='both'), "one of deep, shallow, got form='both'"),
        (dict(patch_size=1.5), 'patch_size=1.5'),
        (dict(dropout=1), 'dropout=1'),
    ],
)
def test_bad_settings(options, text):
    model = timm.create_model('vit_tiny_patch16_224', **SMALL)
    with pytest.raises(ValueError, match=text) as caught:
        inject(model, dict(type='VPT') | options)
    assert "'blocks.0' (Block" in str(caught.value)
