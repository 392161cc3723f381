"""Mona: an adapter that stands at sums and looks at neighbours."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from backbone_cases import CASES, build, images, in_mode
from torch import nn

from mmflora.adapters import adapted_modules, inject, unload
from mmflora.adapters.base import AdapterBase

EXACT = dict(rtol=1e-10, atol=1e-12)
MONA = dict(type='Mona', width=4)


def randomise(model):
    with torch.no_grad():
        for module in adapted_modules(model).values():
            for parameter in module.adapter.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model


def vit(**options):
    return timm.create_model(
        'vit_tiny_patch16_224',
        img_size=(32, 48),
        patch_size=8,
        embed_dim=12,
        depth=2,
        num_heads=2,
        num_classes=0,
        global_pool='',
        **options,
    ).double()


def mona(adapter, h):
    """Compute the paper's formula of a map (N, C, H, W)."""
    p = dict(adapter.named_parameters())
    tokens = h.permute(0, 2, 3, 1)
    mean = tokens.mean(-1, keepdim=True)
    spread = (tokens - mean).square().mean(-1, keepdim=True)
    normed = (tokens - mean) / (spread + 1e-5).sqrt()
    normed = normed * p['norm_weight'] + p['norm_bias']
    n = p['normed_scale'] * normed + p['scale_of_input'] * tokens
    d = (n @ p['down'].T + p['down_bias']).permute(0, 3, 1, 2)
    convolved = [
        F.conv2d(
            d, p[f'filter{k}'], p[f'filter{k}_bias'], padding=k // 2, groups=4
        )
        for k in (3, 5, 7)
    ]
    f = (sum(convolved) / 3 + d).permute(0, 2, 3, 1)
    hidden = F.gelu(f @ p['mixer'].T + p['mixer_bias'] + f)
    return h + (hidden @ p['up'].T + p['up_bias']).permute(0, 3, 1, 2)


def on_tokens(adapter, tokens, before, size):
    """Apply Mona to tokens, of which the first are no part of the map."""
    image = tokens[:, before:].transpose(1, 2).unflatten(2, size)
    whole = mona(adapter, image).flatten(2).transpose(1, 2)
    if not before:
        return whole
    single = copy.deepcopy(adapter)  # what passes by the filters
    for k in (3, 5, 7):
        nn.init.zeros_(single.get_parameter(f'filter{k}'))
        nn.init.zeros_(single.get_parameter(f'filter{k}_bias'))
    first = mona(single, tokens[:, :before].transpose(1, 2)[..., None])
    return torch.cat([first[..., 0].transpose(1, 2), whole], 1)


@pytest.mark.parametrize('registers', [0, 2])
def test_mona_behind_both_sums_of_a_vision_transformer(registers):
    net = vit(reg_tokens=registers).eval()
    pictures = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    expected = net(pictures)
    report = inject(net, MONA)
    assert report.adapted == [
        f'blocks.{i}.{part}' for i in range(2) for part in ('attn', 'mlp')
    ]
    assert torch.equal(net(pictures), expected)
    randomise(net)

    x = net.patch_embed(pictures)
    x = net.norm_pre(net.patch_drop(net._pos_embed(x)))
    before, size = 1 + registers, (4, 6)
    for block in net.blocks:
        attention, mlp = block.attn.adapter, block.mlp.adapter
        stock = copy.deepcopy(block)
        for branch in (stock.attn, stock.mlp):
            branch.adapter_enabled = False
        x = on_tokens(attention, x + stock.attn(stock.norm1(x)), before, size)
        x = on_tokens(mlp, x + stock.mlp(stock.norm2(x)), before, size)
    torch.testing.assert_close(net(pictures), net.norm(x), **EXACT)


@pytest.mark.parametrize('conv_mlp', [False, True])
def test_mona_behind_the_sum_of_a_convnext_block(conv_mlp):
    net = timm.models.ConvNeXt(
        depths=(1, 1, 1, 1),
        dims=(6, 8, 12, 16),
        use_grn=True,
        conv_mlp=conv_mlp,
        num_classes=0,
    )
    net.double().eval()
    assert inject(net, MONA).adapted == [
        f'stages.{i}.blocks.0.mlp' for i in range(4)
    ]
    randomise(net)
    block = net.stages[1].blocks[0]
    inputs = torch.randn(2, 8, 5, 8, dtype=torch.float64)  # as wide as long
    block.mlp.adapter_enabled = False
    total = block(inputs)
    block.mlp.adapter_enabled = True
    expected = mona(block.mlp.adapter, total)
    torch.testing.assert_close(block(inputs), expected, **EXACT)


def swin_reference(block, x, size, attend, branch):
    """Compute a Swin block with Mona, of tokens (N, H W, C)."""
    h = x + attend(block.norm1(x))
    h = on_tokens(block.attn.adapter, h, 0, size)
    mlp = getattr(block, branch)
    return on_tokens(mlp.adapter, h + mlp(block.norm2(h)), 0, size)


def test_mona_in_the_blocks_of_mmdets_swin():
    case = CASES['mmdet SwinTransformer']
    net = build(case, None, MONA, allow_random_base=True).double()
    block = randomise(in_mode(net)).stages[1].blocks[1]
    x = torch.randn(2, 35, 16, dtype=torch.float64)
    adapted = block(x, (5, 7))
    block.attn.adapter_enabled = block.ffn.adapter_enabled = False

    def attend(tokens):
        return block.attn(tokens, (5, 7))

    block.ffn.add_identity = False
    expected = swin_reference(block, x, (5, 7), attend, 'ffn')
    torch.testing.assert_close(adapted, expected, **EXACT)


def test_mona_in_the_blocks_of_timms_swin():
    case = CASES['timm Swin']
    net = build(case, None, MONA, allow_random_base=True).double()
    block = randomise(in_mode(net)).layers[1].blocks[1]
    x = torch.randn(2, 8, 8, 16, dtype=torch.float64)
    adapted = block(x)
    block.attn.adapter_enabled = block.mlp.adapter_enabled = False

    def attend(tokens):
        image = tokens.unflatten(1, (8, 8))
        return block._attn(image).flatten(1, 2)

    expected = swin_reference(block, x.flatten(1, 2), (8, 8), attend, 'mlp')
    torch.testing.assert_close(adapted, expected.unflatten(1, (8, 8)), **EXACT)


@pytest.mark.parametrize(
    'name',
    [
        'mmdet SwinTransformer',
        'mmseg VisionTransformer',
        'timm vision transformer',
        'timm Swin',
        'mmflora ConvNeXt',
    ],
)
def test_starts_as_the_base_learns_and_is_taken_off(name):
    case = CASES[name]
    torch.manual_seed(0)
    net = in_mode(build(case, None, MONA, allow_random_base=True))
    adapted = adapted_modules(net)
    assert any('mlp' in key or 'ffn' in key for key in adapted)
    assert any('attn' in key for key in adapted) == ('Conv' not in name)
    for module in adapted.values():
        module.adapter_enabled = False
    frozen = net(images(case))
    for module in adapted.values():
        module.adapter_enabled = True
    start = net(images(case))
    assert all(map(torch.equal, start, frozen))
    randomise(net)
    moved = net(images(case))
    assert not any(map(torch.equal, moved, frozen))
    sum(x.square().mean() for x in moved).backward()
    for module in adapted.values():
        assert all(p.grad.any() for p in module.adapter.parameters())
    unload(net).requires_grad_(False)  # attention rounds otherwise
    assert not any(isinstance(m, AdapterBase) for m in net.modules())
    assert all(map(torch.equal, net(images(case)), frozen))
    kept = ('ends', 'starts', 'around', 'patches', 'shortcut', 'grid')
    assert not any(vars(m).keys() & {*kept} for m in net.modules())


def test_gradients_pass_checkpointing_within_a_block():
    case = CASES['mmdet SwinTransformer']
    torch.manual_seed(0)
    net = build(case, None, MONA, allow_random_base=True)
    randomise(in_mode(net))
    gradients = []
    for block in (False, True):
        for module in net.modules():
            if hasattr(module, 'with_cp'):
                module.with_cp = block
        net.zero_grad()
        sum(x.square().mean() for x in net(images(case))).backward()
        gradients.append([p.grad for p in net.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_copies_stand_alone(copy_of):
    net = vit().eval()
    inject(net, MONA)
    randomise(net)
    pictures = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    expected = net(pictures)
    other = copy_of(net)
    assert torch.equal(other(pictures), expected)
    nn.init.zeros_(net.blocks[0].attn.adapter.up)
    assert torch.equal(other(pictures), expected)


def test_dropout_of_mona_is_of_training_alone():
    net = vit().eval()
    inject(net, dict(MONA, dropout=0.5))
    randomise(net)
    pictures = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    assert torch.equal(net(pictures), net(pictures))
    net.train()
    assert not torch.equal(net(pictures), net(pictures))


def test_small_steps_of_the_scales_count_under_autocast():
    net = vit().float().eval()
    inject(net, MONA)
    randomise(net)
    adapter = net.blocks[0].mlp.adapter
    tokens = torch.randn(1, 25, 12).bfloat16()
    before = adapter._scaled_norm(tokens)
    with torch.no_grad():
        adapter.scale_of_input += 1e-4
    assert not torch.equal(adapter._scaled_norm(tokens), before)
    with torch.autocast('cpu', torch.bfloat16):
        net(torch.randn(1, 3, 32, 48)).float().sum().backward()
    assert all(p.grad.any() for p in adapter.parameters())


def test_count_on_swin_large():
    """Count by hand: 133 C + 9728 for each of two sums of 24 blocks.

    A scaled norm has 4 C values, the projections 64 C + 64 and 64 C + C, the
    filters 64 (9 + 25 + 49) with three biases of 64, the mixer 64² + 64.
    """
    with torch.device('meta'):
        net = timm.create_model('swin_large_patch4_window7_224', num_classes=0)
    inject(net, dict(type='Mona'))
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    widths = 2 * 192 + 2 * 384 + 18 * 768 + 2 * 1536
    assert trained == 2 * (133 * widths + 24 * 9728) == 5_267_712


def test_errors_of_places():
    shared = nn.ModuleDict(
        dict(
            norm1=nn.LayerNorm(4),
            attn=nn.Linear(4, 4),
            drop_path=nn.Identity(),
            mlp=nn.Linear(4, 4),
        )
    )
    report = inject(nn.ModuleDict(dict(block=shared)), MONA)
    assert report.adapted == ['block.mlp']
    assert 'before it adds it' in report.left_out['block.attn']
    with pytest.raises(ValueError, match='none of the modules'):
        inject(timm.create_model('resnet18', num_classes=0), MONA)
    listed = nn.ModuleDict(dict(a=nn.ModuleDict(dict(mlp=nn.Linear(4, 4)))))
    inject(listed, MONA)
    with pytest.raises(ValueError, match='no map of an unknown size'):
        listed['a'].mlp.adapter(None, torch.randn(1, 9, 4))


def test_tokens_that_are_no_map_of_the_image():
    net = vit().eval()
    inject(net, MONA)
    net(torch.randn(1, 3, 32, 48, dtype=torch.float64))
    with pytest.raises(ValueError, match='no map of 4 x 6'):
        net.blocks[0](torch.randn(1, 9, 12, dtype=torch.float64))
