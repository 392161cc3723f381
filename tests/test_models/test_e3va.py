"""E³VA: low-rank adapters on a highway beside the backbone."""

import pytest
import torch
import torch.nn.functional as F
from backbone_cases import CASES, images
from side_networks import BACKBONES, E3VA, EXACT, of, plain, randomise
from torch import nn

from mmflora.adapters import inject


def made(adapter, h):
    """Return U gelu(D h + d) + u of a map, its matrices multiplied first."""
    down = adapter['down2'][..., 0, 0] @ adapter['down1'][..., 0, 0]
    up = adapter['up2'][..., 0, 0] @ adapter['up1'][..., 0, 0]
    rows = h.movedim(1, -1) @ down.T + adapter['down_bias']
    rows = F.gelu(rows) @ up.T + adapter['up_bias']
    return rows.movedim(-1, 1)


def note(entered, key, x):
    """Note what entered first: later it is the highway's own map."""
    entered.setdefault(key, x)


def normed(x):
    """Return LN(x), by its definition."""
    x = x - x.mean(1, keepdim=True)
    return x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()


def joined(norm, x, z):
    return norm[:, None, None] * (normed(x + z) - normed(x))


def test_outputs_of_a_convnext_are_the_papers():
    net = of('mmflora ConvNeXt', E3VA).double()
    pictures = images(CASES['mmflora ConvNeXt']).double()
    frozen = plain(net, pictures)
    randomise(net)
    features, entered = [], {}
    for stage in net.stages:
        stage.downsample.register_forward_pre_hook(
            lambda down, given: note(entered, down, given[0])
        )
        stage.blocks[-1].register_forward_hook(
            lambda *a: features.append(a[-1])
        )
    adapted = net(pictures)
    z = torch.zeros_like(features[0])
    own = zip(net.stages, features, net.adapter.adapters, strict=True)
    for index, (stage, x, adapter) in enumerate(own):
        if index:
            down = stage.downsample
            before = entered[down]
            z = down(before + z) - down(before)
        z = z + made(adapter, x)
        added = joined(net.adapter.norms[index], x, z)
        torch.testing.assert_close(
            adapted[index], frozen[index] + added, **EXACT
        )


def test_outputs_of_a_plain_transformer_are_the_papers():
    """Its blocks have two sums each, and its map no class token."""
    net = randomise(of('timm vision transformer', E3VA).double())
    pictures = images(CASES['timm vision transformer']).double()
    found = []
    for block in net.blocks:
        block.norm2.register_forward_hook(lambda *a: found.append(a[1][0]))
        block.register_forward_hook(lambda *a: found.append(a[-1]))
    adapted = net(pictures)
    maps = [x[:, 1:].mT.unflatten(2, (4, 4)) for x in found]
    z, streams = torch.zeros_like(maps[0]), []
    for adapter, x in zip(net.adapter.adapters, maps, strict=True):
        z = z + made(adapter, x)
        streams.append((x, z))
    for ours, base, end, norm in zip(
        adapted,
        plain(net, pictures),
        (1, 5),  # behind the first and the third block
        net.adapter.norms,
        strict=True,
    ):
        torch.testing.assert_close(
            ours, base + joined(norm, *streams[end]), **EXACT
        )


def test_outputs_of_a_swin_are_the_papers():
    net = randomise(of('timm Swin', E3VA).double())
    pictures = images(CASES['timm Swin']).double()
    found, entered = [], {}
    for number, stage in enumerate(net.layers):
        stage.downsample.register_forward_hook(
            lambda _, given, __, number=number: note(entered, number, given[0])
        )
        for block in stage.blocks:
            block.norm2.register_forward_hook(lambda *a: found.append(a[1][0]))
            block.register_forward_hook(
                lambda *a, number=number: found.append((number, a[-1]))
            )
    adapted, base = net(pictures), plain(net, pictures)
    found = found[: 2 * len(vars(net.adapter)['taps'])]
    adapters = iter(net.adapter.adapters)
    z, ends = 0, {}
    for inner, (number, x) in zip(found[::2], found[1::2], strict=True):
        if number and number not in ends:
            down, old = net.layers[number].downsample, entered[number]
            whole = old + z.movedim(1, -1)
            z = (down(whole) - down(old)).movedim(-1, 1)
        inner = inner.view(x.shape).movedim(-1, 1)
        x = x.movedim(-1, 1)
        z = z + made(next(adapters), inner)
        z = z + made(next(adapters), x)
        ends[number] = (x, z)
    for index, (ours, own) in enumerate(zip(adapted, base, strict=True)):
        added = joined(net.adapter.norms[index], *ends[index])
        torch.testing.assert_close(ours, own + added, **EXACT)


@pytest.mark.parametrize('name', BACKBONES)
def test_no_activation_within_the_frozen_blocks_is_kept(name):
    net, pictures = randomise(of(name, E3VA)), images(CASES[name])
    for parameter in net.parameters():  # new norms of the outputs too
        parameter.requires_grad_(False)
    net.adapter.requires_grad_(True)
    within, allowed, held, kept = set(), set(), set(), []
    blocks = vars(net.adapter)['taps']
    norms = [norm for norm in vars(net.adapter)['inner'] if norm is not None]

    def note(module, inputs, output):
        kept.append((inputs, output))  # so that no address is used again
        if any(module is norm for norm in norms):
            allowed.add(inputs[0].untyped_storage().data_ptr())
        if isinstance(output, torch.Tensor):
            own = allowed if any(module is b for b in blocks) else within
            own.add(output.untyped_storage().data_ptr())

    for block in blocks:
        for module in block.modules():
            module.register_forward_hook(note)

    def pack(tensor):
        held.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = net(pictures)
    assert any(x.requires_grad for x in outputs)
    assert within - allowed
    assert allowed & held
    assert not (within - allowed) & held


def test_backbones_without_such_stages_are_refused():
    with pytest.raises(ValueError, match='there are 0 layers'):
        of('timm ResNet', dict(E3VA, places=r'layer\d\.\d+'))
    with pytest.raises(ValueError, match='Ladder needs none'):
        of('mmseg MixVisionTransformer', E3VA)


def test_copies_stand_alone(copy_of):
    name = 'timm Swin'
    net, pictures = randomise(of(name, E3VA)), images(CASES[name])
    expected = net(pictures)
    other = copy_of(net)
    for adapter in net.adapter.adapters:
        nn.init.zeros_(adapter['up2'])
    assert all(map(torch.equal, other(pictures), expected))


@pytest.mark.parametrize('name', ['mmflora ConvNeXt', 'mmdet SwinTransformer'])
def test_small_updates_survive_autocast(name):
    net, pictures = of(name, E3VA), images(CASES[name])
    with torch.no_grad():
        for adapter in net.adapter.adapters:
            nn.init.normal_(adapter['up2'], std=1e-4)

    def changes():
        pairs = zip(net(pictures), plain(net, pictures), strict=True)
        return [(ours - base).flatten() for ours, base in pairs]

    whole = changes()
    with torch.autocast('cpu', torch.bfloat16):
        rounded = changes()
    # Far below bfloat16's 2⁻⁸ of the stream that they are added to; within,
    # products have three roundings of 2⁻⁸ in a row, and frozen maps more.
    for ours, exact in zip(rounded, whole, strict=True):
        if ours.dtype == torch.float32:
            assert torch.cosine_similarity(ours, exact, dim=0) > 0.9
    sum(x.float().square().mean() for x in net(pictures)).backward()
    assert all(adapter['up2'].grad.any() for adapter in net.adapter.adapters)


def test_the_adapters_of_a_plain_transformer_are_two_in_a_block():
    net = of('timm vision transformer', E3VA)
    assert len(net.adapter.adapters) == 2 * len(net.adapter.counts)
    stock = nn.ModuleDict(dict(conv=nn.Conv2d(3, 3, 1)))
    with pytest.raises(ValueError, match='no blocks with an mlp'):
        inject(stock, E3VA)
