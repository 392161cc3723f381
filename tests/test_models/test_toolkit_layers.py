"""Layers of the toolkits with a forward pass of their own."""

import copy

import mmcv.ops
import mmdet.models.layers
import pytest
import torch
from mmcv.cnn import bricks
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmdet.models.backbones.trident_resnet import TridentConv
from mmengine.registry import MODELS
from mmrotate.models.utils.orconv import ORConv2d
from torch import nn
from torch.func import functional_call

from mmflora.adapters import adapted_layers, inject, merge

EXACT = dict(rtol=1e-9, atol=1e-11)
FLORA = dict(type='FLoRA', rank=2, scale=0.5)
DORA = dict(type='DoRA', rank=2)


def conv(kind, *arguments, **options):
    return lambda: kind(4, 6, *arguments, **options)


def trident():
    """Return it with its branches, which all use one weight."""
    layer = TridentConv(4, 6, 3, test_branch_idx=-1)
    nn.init.normal_(layer.weight)
    return layer


def switchable():
    layer = mmcv.ops.SAConv2d(4, 6, 3, padding=1, use_deform=True)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    return layer


CASES = {
    'ConvWS2d': conv(bricks.ConvWS2d, 3),
    'ConvAWS2d': conv(bricks.ConvAWS2d, 3),
    'Conv2dAdaptivePadding': conv(Conv2dAdaptivePadding, 3, stride=2),
    'SAConv2d': switchable,
    'MaskedConv2d': conv(mmcv.ops.MaskedConv2d, 3),
    'NormedConv2d': conv(mmdet.models.layers.NormedConv2d, 3),
    'TridentConv': trident,
    'ORConv2d': conv(ORConv2d, 3, arf_config=(1, 8)),
    'DeformConv2d': conv(mmcv.ops.DeformConv2d, 3, padding=1),
    'ModulatedDeformConv2d': conv(
        mmcv.ops.ModulatedDeformConv2d, 3, padding=1
    ),
    'NormedLinear': conv(mmdet.models.layers.NormedLinear),
}


def inputs_of(name):
    images = torch.randn(2, 4, 7, 6).double()
    offsets = 0.3 * torch.randn(2, 18, 7, 6).double()
    return {
        'TridentConv': ([images, images, images],),
        'DeformConv2d': (images, offsets),
        'ModulatedDeformConv2d': (images, offsets, offsets[:, :9].sigmoid()),
        'NormedLinear': (torch.randn(3, 4).double(),),
    }.get(name, (images,))


def total(output):
    """Return a sum in which no norm hides a change."""
    outputs = output if isinstance(output, list) else [output]
    return sum((one**2).sum() for one in outputs)


@pytest.mark.parametrize('method', [FLORA, DORA], ids=['FLoRA', 'DoRA'])
@pytest.mark.parametrize('name', CASES)
def test_it_computes_with_the_adapted_weight(name, method, randomise):
    stock = CASES[name]().double().requires_grad_(False)
    model = nn.ModuleDict(dict(layer=copy.deepcopy(stock)))
    report = inject(model, method, 'layer')
    assert report.adapted == ['layer']
    layer, inputs = model['layer'], inputs_of(name)
    randomise(layer.adapter.parameters())
    changed = {'weight': layer.adapted_weight()}
    expected = functional_call(stock, changed, inputs)
    output = layer(*inputs)
    torch.testing.assert_close(output, expected, **EXACT)
    parameters = list(layer.adapter.parameters())
    found = torch.autograd.grad(total(output), parameters)
    wanted = torch.autograd.grad(total(expected), parameters)
    torch.testing.assert_close(found, wanted, **EXACT)
    assert any(gradient.any() for gradient in found)

    torch.testing.assert_close(copy.deepcopy(layer)(*inputs), output)
    way_back = merge(model)
    assert type(layer) is type(stock)
    assert [*layer.state_dict()] == [*stock.state_dict()]
    torch.testing.assert_close(layer(*inputs), output, **EXACT)
    way_back.unmerge()
    torch.testing.assert_close(layer(*inputs), output, rtol=0, atol=0)


def test_buffers_are_computed_from_the_frozen_weight():
    """ConvAWS2d takes mean and spread of the weight that it loads."""
    layer = bricks.ConvAWS2d(4, 6, 3)
    model = nn.ModuleDict(dict(layer=layer))
    inject(model, FLORA)
    nn.init.normal_(layer.adapter.core)
    weight = torch.randn_like(layer.base_weight())
    layer.load_state_dict(dict(weight=weight), strict=False)
    mean = weight.flatten(1).mean(1)
    torch.testing.assert_close(layer.weight_beta.flatten(), mean)
    assert torch.equal(layer.base_weight(), weight)


@pytest.mark.parametrize('named', ['init_cfg', 'pretrained'])
def test_base_of_detectors(named, tmp_path):
    """Its layers compute buffers that the files of ResNets lack."""
    resnet = dict(depth=50, base_channels=8, norm_eval=True)
    stock = MODELS.build(dict(type='mmdet.ResNet', **resnet))
    path = str(tmp_path / 'base.pth')
    torch.save(stock.state_dict(), path)
    source = dict(type='Pretrained', checkpoint=path)
    detectors = dict(
        type='mmdet.DetectoRS_ResNet',
        conv_cfg=dict(type='ConvAWS'),
        sac=dict(type='SAC', use_deform=True),
        stage_with_sac=(False, False, False, True),
        **resnet,
        **{named: source if named == 'init_cfg' else path},
    )
    new = (
        r'layer4\..*(switch|context|offset_[sl])\.(weight|bias)',
        r'layer4\..*weight_diff',
    )
    backbone = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=detectors,
            peft=dict(adapter=FLORA, new_params=new),
        )
    )
    assert backbone.base_record.source == source
    layers = adapted_layers(backbone)
    for name in ('layer1.0.conv1', 'layer4.0.conv2'):
        layer, weight = layers[name], stock.get_submodule(name).weight
        assert torch.equal(layer.base_weight(), weight)
        spread = torch.sqrt(weight.flatten(1).var(1) + 1e-5)
        torch.testing.assert_close(layer.weight_gamma.flatten(), spread)
