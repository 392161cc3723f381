"""Plain vision transformers of timm as backbones, at any size."""

import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from plain_transformers import NETS, SMALL, timms_own
from torch import nn

from mmflora.adapters.quantized_base import quantized_weights
from mmflora.engine.layer_decay import layer_scales
from mmflora.models import build_timm_backbone

EXACT = dict(rtol=1e-10, atol=1e-12)
WITH_NORM = ('registers', 'rotary, registers')
VIT = ('vit_small_patch14_reg4_dinov2', dict(SMALL, img_size=56))


@pytest.fixture(params=NETS.values(), ids=NETS)
def net(request):
    return request.param


def images(height=64, width=None, batch=2):
    return torch.randn(batch, 3, height, width or height, dtype=torch.float64)


def build(net, randomise, out_indices=(0, 2), **options):
    name, small = net
    backbone = build_timm_backbone(name, out_indices, **small, **options)
    randomise(backbone.double().parameters())
    return backbone.eval()


def same_by_timm(net, backbone, **options):
    plain = timms_own(*net, **options).double().eval()
    result = plain.load_state_dict(backbone.state_dict(), strict=False)
    assert result.unexpected_keys == []
    return plain


@pytest.mark.parametrize(
    'size', [(112, 112), (224, 112), (70, 50), (15, 100)], ids=str
)
def test_features_of_any_size(net, size, randomise):
    backbone = build(net, randomise)
    plain = same_by_timm(net, backbone)
    inputs = images(*size)
    side = plain.patch_embed.patch_size[0]
    rows, columns = (-(-length // side) for length in size)
    padded = torch.zeros(2, 3, rows * side, columns * side).double()
    padded[..., : size[0], : size[1]] = inputs
    wanted = plain.forward_intermediates(
        padded, indices=[0, 2], intermediates_only=True
    )
    features = backbone(inputs)
    assert len(features) == 2
    for feature, expected in zip(features, wanted, strict=True):
        # Neither class tokens nor registers.
        assert feature.shape == (2, 16, rows, columns)
        assert feature.is_contiguous()
        torch.testing.assert_close(feature, expected, **EXACT)


def test_features_of_the_size_that_it_was_built_for(net, randomise):
    backbone = build(net, randomise).float()
    plain = same_by_timm(net, backbone, any_size=False).float()
    inputs = images(net[1]['img_size']).float()
    wanted = plain.forward_intermediates(
        inputs, indices=[0, 2], intermediates_only=True
    )
    for feature, expected in zip(backbone(inputs), wanted, strict=True):
        assert torch.equal(feature, expected)


@pytest.mark.parametrize('name', WITH_NORM)
@pytest.mark.parametrize('final_norm', ['last', 'all'])
def test_final_norm(name, final_norm, randomise):
    net = NETS[name]
    backbone = build(net, randomise, final_norm=final_norm)
    assert not any('norm' in key for key in backbone.dropped_keys)
    plain = same_by_timm(net, backbone)
    inputs = images(80, 100)
    first, second = backbone(inputs)
    raw, normed = (
        plain.forward_intermediates(
            F.pad(inputs, (0, 12, 0, 4) if net == VIT else (0, 12)),
            indices=[0, 2],
            intermediates_only=True,
            norm=norm,
        )
        for norm in (False, True)
    )
    before = normed if final_norm == 'all' else raw
    torch.testing.assert_close(first, before[0], **EXACT)
    torch.testing.assert_close(second, normed[1], **EXACT)


def gradients(backbone, *sizes):
    """Return the gradients after passes of all sizes, then one backward."""
    backbone.zero_grad()
    torch.manual_seed(1)
    outputs = [x for size in sizes for x in backbone(images(*size))]
    sum(x.square().mean() for x in outputs).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in backbone.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize('windows', [{}, dict(attention_window=2)], ids=str)
def test_checkpointed_blocks(net, windows, randomise):
    if windows and net[0].startswith('samvit'):
        pytest.skip('SAM has windows of its own')
    backbone = build(net, randomise, **windows)
    recomputed = build(net, randomise, with_cp=True, **windows)
    recomputed.load_state_dict(backbone.state_dict())
    passes = []
    for model in (backbone, recomputed):
        model.train()
        model.blocks[1].mlp.register_forward_pre_hook(
            lambda module, _: passes.append(module)
        )
    # Of two sizes: the second must not change what the first recomputes.
    sizes = (64, 96), (96, 64)
    expected = gradients(backbone, *sizes)
    found = gradients(recomputed, *sizes)
    assert passes.count(backbone.blocks[1].mlp) == 2
    assert passes.count(recomputed.blocks[1].mlp) == 4
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **EXACT, msg=name)


def masked(rows, columns, prefix, side):
    """Return which tokens see which, where windows divide the map."""
    place = torch.arange(rows * columns)
    window = place // columns // side * columns + place % columns // side
    return window[:, None] == window


def test_windows_by_a_mask(randomise):
    """Attention within windows is attention under a mask."""
    name, options = (
        'vit_tiny_patch16_224',
        dict(SMALL, img_size=64, class_token=False, global_pool='avg'),
    )
    backbone = build(
        (name, options), randomise, attention_window=2, global_blocks=[1]
    )
    plain = same_by_timm((name, options), backbone)
    inputs = images(64, 96)
    mask = masked(4, 6, 0, 2)
    for index in (0, 2):
        plain.blocks[index].attn.register_forward_pre_hook(
            lambda _, inputs, options: (inputs, dict(options, attn_mask=mask)),
            with_kwargs=True,
        )
    wanted = plain.forward_intermediates(
        inputs, indices=[0, 2], intermediates_only=True
    )
    for feature, expected in zip(backbone(inputs), wanted, strict=True):
        torch.testing.assert_close(feature, expected, **EXACT)


def test_windows_are_those_of_segment_anything(randomise):
    """Whose code is ViTDet's; also where windows do not divide the map."""
    options = dict(SMALL, img_size=64)
    backbone = build(
        (
            'vit_tiny_patch16_224',
            dict(options, class_token=False, global_pool='avg'),
        ),
        randomise,
        attention_window=3,
        global_blocks=[1],
    )
    sam = timm.create_model(
        'samvit_base_patch16',
        **options,
        window_size=3,
        global_attn_indexes=(1,),
        use_rel_pos=False,
    )
    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = sam.blocks[0].norm1.eps
    state = backbone.state_dict()
    state['pos_embed'] = state['pos_embed'].unflatten(1, (4, 4))
    result = sam.double().eval().load_state_dict(state, strict=False)
    assert result.unexpected_keys == []
    for size in ((64, 64), (80, 112)):
        inputs = images(*size)
        wanted = sam.forward_intermediates(
            inputs, indices=[0, 2], intermediates_only=True
        )
        for feature, expected in zip(backbone(inputs), wanted, strict=True):
            torch.testing.assert_close(feature, expected, **EXACT)


def by_window(attention, tokens, rope, grid, side, prefix):
    """Attend in each window by itself, one after the other."""
    rows, columns = grid
    first, patches = tokens[:, :prefix], tokens[:, prefix:]
    outputs = torch.empty_like(patches)
    firsts = []
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            place = [
                i * columns + j
                for i in range(top, top + side)
                for j in range(left, left + side)
            ]
            options = {} if rope is None else dict(rope=rope[..., place, :])
            output = attention(
                torch.cat([first, patches[:, place]], 1), **options
            )
            firsts.append(output[:, :prefix])
            outputs[:, place] = output[:, prefix:]
    return torch.cat([sum(firsts) / len(firsts), outputs], 1)


@pytest.mark.parametrize(
    'name', ['registers', 'rotary, biases apart', 'rotary, EVA-02']
)
def test_windows_with_tokens_of_no_patch(name, randomise):
    """They are in every window; the mean is what they become."""
    net = NETS[name]
    backbone = build(net, randomise, attention_window=2)
    plain = same_by_timm(net, backbone)
    side = plain.patch_embed.patch_size[0]
    for block in plain.blocks:
        attention = block.attn
        stock = attention.forward
        attention.forward = lambda x, rope=None, stock=stock, **_: by_window(
            stock, x, rope, (4, 6), 2, plain.num_prefix_tokens
        )
    inputs = images(4 * side, 6 * side)
    wanted = plain.forward_intermediates(
        inputs, indices=[0, 2], intermediates_only=True
    )
    for feature, expected in zip(backbone(inputs), wanted, strict=True):
        torch.testing.assert_close(feature, expected, **EXACT)


def test_one_window_is_global_attention(net, randomise):
    if net[0].startswith('samvit'):
        pytest.skip('SAM has windows of its own')
    backbone = build(net, randomise, attention_window=4)
    plain = build(net, randomise)
    plain.load_state_dict(backbone.state_dict())
    inputs = images(net[1]['img_size'])
    for feature, expected in zip(backbone(inputs), plain(inputs), strict=True):
        torch.testing.assert_close(feature, expected, **EXACT)


def test_copies(copy_of, randomise):
    backbone = build(VIT, randomise, attention_window=2, final_norm='all')
    other = copy_of(copy_of(backbone))
    for size in ((64, 64), (70, 140)):
        inputs = images(*size)
        for one, two in zip(other(inputs), backbone(inputs), strict=True):
            assert torch.equal(one, two)
    windows = other.blocks[0].attn.windows
    assert windows is not backbone.blocks[0].attn.windows


def adapted(net, **options):
    torch.manual_seed(0)
    name, small = net
    own = {k: options.pop(k) for k in list(options) if k == 'with_cp'}
    backbone = dict(
        type='mmflora.TimmBackbone',
        model_name=name,
        out_indices=(0, 2),
        drop_path_rate=0.1,
        **small,
        **own,
    )
    peft = dict(
        adapter=dict(type='LoRA', rank=2),
        targets=r'blocks\..*',
        allow_random_base=True,
    )
    built = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=backbone,
            peft=peft | options,
        )
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if '.adapter.' in name:
                parameter.normal_(std=0.1, generator=generator)
    return built


def step(backbone):
    """Return features and gradients of the adapters."""
    torch.manual_seed(3)
    backbone.train()
    features = backbone(images(70, 50).float())
    sum(x.square().mean() for x in features).backward()
    grads = {
        name: parameter.grad
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    }
    assert all('.adapter.' in name for name in grads)
    assert all(grad is not None and grad.any() for grad in grads.values())
    return features, grads


@pytest.mark.parametrize(
    'options',
    [dict(with_cp=True), dict(lean=True), dict(lean=True, with_cp=True)],
    ids=str,
)
def test_what_saves_memory_changes_no_gradient(net, options):
    features, expected = step(adapted(net))
    others, found = step(adapted(net, **options))
    for one, two in zip(others, features, strict=True):
        torch.testing.assert_close(one, two)
    for name, grad in expected.items():
        # Sums of float32 in another order.
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-6)


def test_autocast(net):
    features, _ = step(adapted(net))
    seen = []
    backbone = adapted(net, autocast='bfloat16')
    backbone.blocks[1].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    others, _ = step(backbone)
    assert seen == [torch.bfloat16]
    for one, two in zip(others, features, strict=True):
        assert one.dtype == torch.float32
        # Three blocks, each of a few roundings to 8 bits.
        assert 0 < (one - two).norm() / two.norm() < 0.05


@pytest.mark.parametrize('bits', [8, 4])
def test_quantized_base(net, bits):
    """It computes what the rounded weights give, kept dense."""
    backbone = adapted(net, quantize=dict(bits=bits))
    stored = quantized_weights(backbone)
    linear = {
        f'{name}.weight'
        for name, layer in backbone.blocks.named_modules(prefix='blocks')
        if isinstance(layer, nn.Linear)
    }
    # What is read past its layer, to add biases, stays as it is.
    attention = backbone.blocks[0].attn
    biases = getattr(attention, 'q_bias', None) is not None
    read = {f'blocks.{i}.attn.qkv.weight' for i in range(3) if biases}
    assert set(stored) == {n for n in linear if '.adapter.' not in n} - read
    dense = adapted(net)
    own = dict(dense.named_parameters())
    with torch.no_grad():
        for name, weight in stored.items():
            assert not torch.equal(own[name], weight.dequantize())
            own[name].copy_(weight.dequantize())
    found, grads = step(backbone)
    wanted, expected = step(dense)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-5)


def test_rates_fall_towards_the_patches(net):
    model = nn.Module()
    model.backbone = adapted(net, adapter=dict(type='Full'), targets='.*')
    scales = layer_scales(model, 0.5)
    for name, parameter in model.backbone.named_parameters():
        above = 3
        if name.startswith('blocks.'):
            above = 2 - int(name.split('.')[1])
        assert scales[parameter] == 0.5**above, name


BAD = {
    'not ascending': (VIT, dict(out_indices=(2, 0)), '0 … 2'),
    'no such block': (VIT, dict(out_indices=(0, 3)), r'\[0, 3\]'),
    'none': (VIT, dict(out_indices=()), '0 … 2'),
    'patch': (VIT, dict(img_size=60), r'14 × 14.*\(60, 60\)'),
    'norm': (VIT, dict(final_norm=True), "'last' or 'all'"),
    'no norm': (
        NETS['rotary, EVA-02'], dict(final_norm='last'), 'no norm after'
    ),
    'norm of a CNN': (('resnet18', {}), dict(final_norm='all'), 'no norm'),
    'global': (
        VIT, dict(attention_window=2, global_blocks=[5]), r'0 … 2.*\[5\]'
    ),
    'window': (VIT, dict(attention_window=0), 'got 0'),
    'SAM': (NETS['SAM'], dict(attention_window=2), 'windows of its own'),
    'Swin': (
        ('swin_tiny_patch4_window7_224', {}),
        dict(attention_window=2),
        'no plain transformer',
    ),
}  # fmt: skip


@pytest.mark.parametrize(('net', 'options', 'part'), BAD.values(), ids=BAD)
def test_bad_options(net, options, part):
    name, small = net
    options = {'out_indices': (0, 2)} | small | options
    with pytest.raises(ValueError, match=part):
        build_timm_backbone(name, **options)


def test_negative_indices_count_from_the_last():
    backbone = build_timm_backbone(VIT[0], (-3, -2), **VIT[1])
    assert backbone.out_indices == (0, 1)
    assert len(backbone.blocks) == 2


def test_no_activation_checkpointing(monkeypatch):
    def refuse(self, enable=True):
        assert not enable, 'gradient checkpointing not supported'

    kind = type(timm.create_model(VIT[0], **VIT[1]))
    monkeypatch.setattr(kind, 'set_grad_checkpointing', refuse)
    with pytest.raises(ValueError, match='with_cp=False'):
        build_timm_backbone(VIT[0], (0, 2), with_cp=True, **VIT[1])


FIXED = {
    'registers': (VIT, dict(dynamic_img_size=False), 'dynamic_img_size=True'),
    'rotary': (
        NETS['rotary, registers'],
        dict(dynamic_img_size=False),
        'dynamic_img_size=True',
    ),
    'BEiT': (
        ('beit_base_patch16_224', dict(SMALL, img_size=64)), {}, 'img_size=',
    ),
    'Swin': (
        (
            'swin_tiny_patch4_window7_224',
            dict(img_size=64, window_size=4, embed_dim=8),
        ),
        {},
        'strict_img_size=False',
    ),
}  # fmt: skip


@pytest.mark.parametrize(('net', 'options', 'part'), FIXED.values(), ids=FIXED)
def test_images_of_another_size(net, options, part):
    backbone = build_timm_backbone(net[0], (0, 2), **net[1], **options)
    size = net[1]['img_size']
    assert backbone(torch.zeros(1, 3, size, size))
    with pytest.raises(ValueError, match=part) as caught:
        backbone(torch.zeros(1, 3, 112, 80))
    assert str((size, size)) in str(caught.value)
    assert '(112, 80)' in str(caught.value)
