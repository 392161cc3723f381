"""Ladder side tuning: no gradient flows through the frozen backbone."""

import pytest
import timm
import torch
import torch.nn.functional as F
from backbone_cases import CASES, images
from side_networks import BACKBONES, EXACT, LADDER, of, plain, randomise
from torch import nn

from mmflora.adapters import inject


def mixed(x, weight, bias):
    return (
        torch.einsum('oi,nihw->nohw', weight[..., 0, 0], x)
        + bias[:, None, None]
    )


def states(adapter, features):
    """Compute the paper's recurrence, with the thin block of this project."""
    state, found = None, []
    for rung, feature in zip(adapter.rungs, features, strict=True):
        z = mixed(feature, rung['down'], rung['down_bias'])
        if state is not None:
            if state.shape[-2:] != z.shape[-2:]:
                state = F.avg_pool2d(state, 2)
                state = mixed(state, rung['between'], rung['between_bias'])
            share = 1 / (1 + torch.exp(-rung['gate'] / 0.1))
            z = share * state + (1 - share) * z
        n = z - z.mean(1, keepdim=True)
        n = n / (n.square().mean(1, keepdim=True) + 1e-5).sqrt()
        n = n * rung['norm'][:, None, None] + rung['norm_bias'][:, None, None]
        n = F.conv2d(
            n, rung['filter'], rung['filter_bias'], padding=1, groups=len(n[0])
        )
        n = F.gelu(mixed(n, rung['wide'], rung['wide_bias']))
        state = z + mixed(n, rung['narrow'], rung['narrow_bias'])
        found.append(state)
    return found


def test_outputs_of_a_convnext_are_the_papers():
    net = of('mmflora ConvNeXt', LADDER).double()
    pictures = images(CASES['mmflora ConvNeXt']).double()
    frozen = net(pictures)
    assert all(map(torch.equal, frozen, plain(net, pictures)))
    randomise(net)
    features = []
    for stage in net.stages:
        block = stage.blocks[0]
        block.register_forward_hook(lambda *a: features.append(a[-1]))
    adapted = net(pictures)
    for ours, base, state, up in zip(
        adapted,
        frozen,
        states(net.adapter, features),
        net.adapter.ups,
        strict=True,
    ):
        added = mixed(state, up['up'], up['up_bias'])
        torch.testing.assert_close(ours, base + added, **EXACT)


@pytest.mark.parametrize('name', ['timm vision transformer', 'timm Swin'])
def test_outputs_of_transformers_are_the_papers(name):
    net = randomise(of(name, LADDER)).double()
    pictures = images(CASES[name]).double()
    swin = 'Swin' in name
    blocks = (
        [block for stage in net.layers for block in stage.blocks]
        if swin
        else net.blocks
    )
    found = []
    for block in blocks:
        block.register_forward_hook(lambda *a: found.append(a[-1]))
    adapted = net(pictures)
    maps = [
        x.permute(0, 3, 1, 2) if swin else x[:, 1:].mT.unflatten(2, (4, 4))
        for x in found
    ]
    behind = states(net.adapter, maps)
    ends = (0, 2, 3, 4) if swin else (0, 2)
    for ours, base, end, up in zip(
        adapted, plain(net, pictures), ends, net.adapter.ups, strict=True
    ):
        added = mixed(behind[end], up['up'], up['up_bias'])
        torch.testing.assert_close(ours, base + added, **EXACT)


@pytest.mark.parametrize('name', BACKBONES)
def test_no_activation_of_the_frozen_backbone_is_kept(name):
    net, pictures = randomise(of(name, LADDER)), images(CASES[name])
    for parameter in net.parameters():  # new norms of the outputs too
        parameter.requires_grad_(False)
    net.adapter.requires_grad_(True)
    taps = {id(block) for block in vars(net.adapter)['taps']}
    frozen, allowed, held = set(), set(), []

    def note(module, _, output):
        if isinstance(output, torch.Tensor):
            kept.append(output)  # so that no address is used again
            own = allowed if id(module) in taps else frozen
            own.add(output.untyped_storage().data_ptr())

    kept = []
    for prefix, module in net.named_modules():
        if not prefix.startswith('adapter') and prefix:
            module.register_forward_hook(note)

    def pack(tensor):
        held.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = net(pictures)
    assert any(x.requires_grad for x in outputs)
    assert len(frozen) > len(allowed) > 0
    assert not (frozen - allowed) & {*held}


def saved_bytes(net, pictures):
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = net(pictures)
    del outputs
    return sum(held.values())


def test_keeps_less_than_adapters_within():
    name = 'timm vision transformer'
    pictures = images(CASES[name])
    ladder = saved_bytes(randomise(of(name, LADDER)), pictures)
    lora = saved_bytes(of(name, dict(type='LoRA', rank=4)), pictures)
    assert ladder < 0.75 * lora


def test_a_resnet_whose_blocks_are_named():
    net = of('timm ResNet', dict(LADDER, places=r'layer\d\.\d+'))
    pictures = images(CASES['timm ResNet'])
    assert len(net.adapter.rungs) == 8
    assert len(net.adapter.ups) == 4
    frozen = plain(net, pictures)
    assert all(map(torch.equal, net(pictures), frozen))
    assert not any(map(torch.equal, randomise(net)(pictures), frozen))
    stock = timm.create_model('resnet18', num_classes=0)
    with pytest.raises(ValueError, match='no blocks with an mlp'):
        inject(stock, LADDER)


def test_a_backbone_with_other_outputs_is_refused():
    net = timm.create_model(
        'vit_tiny_patch16_224', img_size=32, depth=1, num_classes=0
    )
    inject(net, LADDER)
    with pytest.raises(ValueError, match='returns maps of its blocks'):
        net(torch.randn(1, 3, 32, 32))


def test_a_model_with_one_output():
    net = timm.models.ConvNeXt(
        depths=(1, 2, 1, 1), dims=(8, 8, 12, 16), num_classes=0, global_pool=''
    ).eval()
    inject(net, LADDER)
    assert len(net.adapter.rungs) == 5
    assert len(net.adapter.ups) == 1
    randomise(net)(torch.randn(1, 3, 64, 64)).square().mean().backward()
    assert all(p.grad.any() for p in net.adapter.parameters())


def test_copies_stand_alone(copy_of):
    name = 'timm vision transformer'
    net, pictures = randomise(of(name, LADDER)), images(CASES[name])
    expected = net(pictures)
    other = copy_of(net)
    for up in net.adapter.ups:
        nn.init.zeros_(up['up'])
    assert all(map(torch.equal, other(pictures), expected))


def test_autocast_trains_it():
    name = 'mmdet SwinTransformer'
    net = randomise(of(name, LADDER))
    with torch.autocast('cpu', torch.bfloat16):
        outputs = net(images(CASES[name]))
        sum(x.float().square().mean() for x in outputs).backward()
    assert all(p.grad.any() for p in net.adapter.parameters())
