"""Bottlenecks behind and beside blocks."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from method_cases import BLOCK_METHODS, randomise
from torch import nn

from mmflora.adapters import adapted_modules, disabled, inject, merge
from mmflora.adapters.block_hooks import restore_block

EXACT = dict(rtol=1e-10, atol=1e-12)


def vit():
    return timm.create_model(
        'vit_tiny_patch16_224',
        img_size=32,
        embed_dim=12,
        depth=2,
        num_heads=2,
        num_classes=0,
    )


def convnext(**options):
    return timm.models.ConvNeXt(
        depths=(1, 1, 1, 1),
        dims=(6, 8, 12, 16),
        use_grn=True,
        ls_init_value=None,
        num_classes=0,
        **options,
    )


MODELS = {
    'vit': vit,
    'convnext': convnext,
    'convnext, channels first': lambda: convnext(conv_mlp=True),
}
PLACES = {
    ('vit', 'Houlsby'): [
        f'blocks.{i}.{part}' for i in range(2) for part in ('attn', 'mlp')
    ],
    ('vit', 'LoRand'): [
        f'blocks.{i}.{part}' for i in range(2) for part in ('attn', 'mlp')
    ],
    ('vit', 'Pfeiffer'): ['blocks.0.mlp', 'blocks.1.mlp'],
    ('vit', 'AdaptFormer'): ['blocks.0.mlp', 'blocks.1.mlp'],
}
STAGES = [f'stages.{i}.blocks.0.mlp' for i in range(4)]
BOTH = [
    pytest.param(model, method, id=f'{method} | {model}')
    for model in MODELS
    for method in BLOCK_METHODS
]


def build(model):
    return MODELS[model]().double().eval(), torch.randn(
        2, 3, 32, 32, dtype=torch.float64
    )


@pytest.mark.parametrize(('model', 'method'), BOTH)
def test_starts_as_identity_and_then_learns(model, method):
    net, images = build(model)
    expected = net(images)
    keys = list(net.state_dict())
    report = inject(net, BLOCK_METHODS[method])
    assert report.adapted == PLACES.get((model, method), STAGES)
    assert torch.equal(net(images), expected)
    own = [key for key in net.state_dict() if '.adapter.' not in key]
    assert own == keys
    randomise(net)
    output = net(images)
    assert not torch.allclose(output, expected)
    output.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == ('.adapter.' in name)
        assert parameter.grad is None or parameter.grad.any()
    with disabled(net):
        assert torch.equal(net(images), expected)
    assert torch.equal(net(images), output)


def lorand_matrices(adapter):
    """Return the sums over branches of P K Q, with one K for both."""
    p = adapter
    pairs = (p.down_left, p.down_right), (p.up_left, p.up_right)
    return [
        sum(a @ k @ b for a, k, b in zip(left, p.kernel, right, strict=True))
        for left, right in pairs
    ]


def reference(method, block, inputs):
    """Compute a block's adapted output, sharing no code with mmflora."""
    adapter = block.adapter
    stock = copy.deepcopy(block)
    restore_block(stock)
    output = stock(inputs)
    x = inputs if method == 'AdaptFormer' else output
    activation = F.gelu if method in ('Houlsby', 'LoRand') else F.relu
    first = x.dim() == 4 and x.shape[-1] != adapter.channels
    x = x.permute(0, 2, 3, 1) if first else x
    if method == 'LoRand':
        down, up = lorand_matrices(adapter)
    else:
        down, up = adapter.down.T, adapter.up.T
    hidden = activation(x @ down + adapter.down_bias)
    update = hidden @ up + adapter.up_bias
    update = update.permute(0, 3, 1, 2) if first else update
    return output + (0.5 if method == 'AdaptFormer' else 1.0) * update


@pytest.mark.parametrize(('model', 'method'), BOTH)
def test_output_is_the_papers(model, method):
    net, _ = build(model)
    inject(net, BLOCK_METHODS[method])
    randomise(net)
    name, block = list(adapted_modules(net).items())[-1]
    shape = (2, 5, 12)
    if model != 'vit':
        channels_first = 'first' in model
        shape = (2, 16, 4, 3) if channels_first else (2, 4, 3, 16)
    inputs = torch.randn(shape, dtype=torch.float64)
    expected = reference(method, block, inputs)
    torch.testing.assert_close(block(inputs), expected, **EXACT)


def test_lorand_on_swin_base():
    """Count by hand: 49.5 C + 128 for each of two adapters of 24 blocks.

    With α = 2, β = 8 and the width C / 2 the four factors of a branch have
    8 C, 4 C, 4 C and 8 C values, its kernel 64; the biases C / 2 and C.
    """
    with torch.device('meta'):
        net = timm.create_model('swin_base_patch4_window7_224', num_classes=0)
    inject(net, dict(type='LoRand'))
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    widths = 2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024
    assert trained == 2 * (49.5 * widths + 24 * 128) == 1_197_312


@pytest.mark.parametrize('method', BLOCK_METHODS)
def test_cannot_be_merged(method):
    net, images = build('vit')
    inject(net, BLOCK_METHODS[method])
    randomise(net)
    before = net(images)
    with pytest.raises(ValueError, match='cannot be merged') as caught:
        merge(net)
    assert f"'blocks.0.mlp': {method}" in str(caught.value) or (
        "'blocks.0.attn'" in str(caught.value)
    )
    assert 'activation' in str(caught.value)
    assert torch.equal(net(images), before)


def test_copies_compute_the_same_and_stand_alone(copy_of):
    net, images = build('vit')
    inject(net, BLOCK_METHODS['Houlsby'])
    randomise(net)
    expected = net(images)
    other = copy_of(net)
    assert torch.equal(other(images), expected)
    nn.init.zeros_(net.blocks[0].mlp.adapter.up)
    assert torch.equal(other(images), expected)


def test_attention_with_several_outputs():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
    report = inject(layer, dict(type='Houlsby', width=2))
    assert report.adapted == ['self_attn']
    inputs = torch.randn(2, 3, 8, dtype=torch.float64)
    before = layer.eval()(inputs)
    randomise(layer)
    assert not torch.allclose(layer.train()(inputs), before)


def test_places_name_other_blocks():
    net = timm.create_model('resnet18', num_classes=0).double().eval()
    places = r'layer\d\.\d'
    with pytest.raises(ValueError, match='none of the modules of ResNet'):
        inject(net, dict(type='Houlsby'))
    settings = dict(type='Houlsby', width=4, places=places)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = net(images)
    report = inject(net, settings, r'layer[34]\..*')
    assert report.adapted == [f'layer{i}.{j}' for i in (3, 4) for j in (0, 1)]
    assert net.layer4[1].adapter.channels == 512
    assert torch.equal(net(images), expected)


def test_nested_places_are_adapted_once():
    net = nn.ModuleDict(dict(attn=nn.ModuleDict(dict(attn=nn.Linear(4, 4)))))
    report = inject(net, dict(type='Houlsby', width=2))
    assert report.adapted == ['attn']


def test_a_block_that_changes_its_width():
    net = nn.ModuleDict(dict(mlp=nn.Linear(4, 6)))
    inject(net, dict(type='AdaptFormer', width=2))
    with pytest.raises(ValueError, match='6 channels') as caught:
        net['mlp'](torch.randn(2, 4))
    assert '(2, 4)' in str(caught.value)


def test_blocks_without_a_matrix_and_with_an_adapter_are_left_out():
    taken = nn.Module()
    taken.fc, taken.adapter = nn.Linear(4, 4), nn.Identity()
    net = nn.ModuleDict(
        dict(
            a=nn.ModuleDict(dict(mlp=nn.ReLU())),
            b=nn.ModuleDict(dict(mlp=taken)),
            c=nn.ModuleDict(dict(mlp=nn.Linear(4, 4))),
            d=nn.ModuleDict(dict(mlp=nn.Sequential(nn.Linear(4, 4)))),
        )
    )
    report = inject(net, dict(type='Pfeiffer', width=2))
    assert report.adapted == ['c.mlp']
    assert 'tells its width' in report.left_out['a.mlp']
    assert 'of its own' in report.left_out['b.mlp']
    assert 'run the adapter as a layer' in report.left_out['d.mlp']
    with pytest.raises(ValueError, match='already has an adapter'):
        inject(net, dict(type='Houlsby'))


def test_half_precision_and_autocast():
    net = vit()
    inject(net, dict(type='AdaptFormer', width=3))
    images = torch.randn(1, 3, 32, 32)
    with torch.autocast('cpu', torch.bfloat16):
        net(images).float().sum().backward()
    adapters = [p for n, p in net.named_parameters() if '.adapter.' in n]
    assert all(p.grad is not None for p in adapters)
    net.to(torch.bfloat16)
    assert net(images.bfloat16()).dtype == torch.bfloat16
