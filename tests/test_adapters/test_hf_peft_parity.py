"""The bridge against peft itself: values and gradients, method by method."""

import copy

import peft
import pytest
import torch
from hf_peft_cases import CONVS, OPTIONS, TYPES, adapt, images, net, randomise
from torch import nn

from mmflora.adapters import adapted_layers

LORA_KINDS = {
    'dora': dict(use_dora=True),
    'rslora': dict(use_rslora=True, r=4),
    'gaussian': dict(init_lora_weights='gaussian'),
    'lora_bias': dict(lora_bias=True),
    'ranks': dict(rank_pattern={'mlp.0': 2}, alpha_pattern={'head': 3}),
}


def by_peft(model, peft_type, names, **options):
    """Adapt the same layers as a user of peft would."""
    options = OPTIONS.get(peft_type, {}) | options
    if peft_type == 'ADALORA':
        options = options | dict(total_step=1)
    if peft_type == 'IA3':
        options = options | dict(feedforward_modules=[])
    settings = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type](
        target_modules=names, **options
    )
    return peft.get_peft_model(model, settings)


def tensors(layer):
    """Return peft's own parameters and buffers of a layer by name."""
    found = dict(layer.named_parameters()) | dict(layer.named_buffers())
    return {k: v for k, v in found.items() if not k.startswith('base_layer.')}


def tensor_at(layer, key):
    for part in key.split('.'):
        layer = getattr(layer, part)
    return layer


def pair(peft_type, **options):
    """Return our net, peft's, and both's layers by name, values equal."""
    ours = net(peft_type)
    theirs = copy.deepcopy(ours)
    names = adapt(ours, peft_type, **options).adapted
    theirs = by_peft(theirs, peft_type, names, **options)
    randomise(theirs)
    wrapped = theirs.base_model.model
    layers = {
        name: (adapted_layers(ours)[name], wrapped.get_submodule(name))
        for name in names
    }
    with torch.no_grad():
        for mine, other in layers.values():
            for key, value in tensors(other).items():
                tensor_at(mine.adapter.peft_layer, key).copy_(value)
    return ours.eval(), theirs.eval(), layers


def assert_equal_gradients(layers):
    compared = 0
    for mine, other in layers.values():
        for key, value in tensors(other).items():
            # A cast to another type makes peft's constants trainable there.
            constant = key.split('.')[0] in other.other_param_names
            if not constant and value.grad is not None:
                grad = tensor_at(mine.adapter.peft_layer, key).grad
                torch.testing.assert_close(
                    grad, value.grad, rtol=1e-10, atol=1e-12
                )
                compared += int(value.grad.abs().sum() > 0)
    assert compared


def check(peft_type, **options):
    ours, theirs, layers = pair(peft_type, **options)
    inputs = images(ours).requires_grad_()
    copied = inputs.detach().clone().requires_grad_()
    mine, other = ours(inputs), theirs(copied)
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    mine.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(
        inputs.grad, copied.grad, rtol=1e-10, atol=1e-12
    )
    assert_equal_gradients(layers)
    return layers


@pytest.mark.parametrize('peft_type', TYPES)
def test_equals_peft(peft_type):
    layers = check(peft_type)
    expected = {'mlp.0', 'mlp.2', 'head'}
    if peft_type in CONVS:
        expected.add('conv')
    if peft_type == 'LN_TUNING':
        expected = {'norm'}
    assert set(layers) == expected


@pytest.mark.parametrize('kind', LORA_KINDS)
def test_lora_options_equal_peft(kind):
    check('LORA', **LORA_KINDS[kind])


@pytest.mark.parametrize('peft_type', ['LORA', 'LOKR', 'IA3'])
def test_grouped_convolution_equals_peft(peft_type):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(8, 12, 3, groups=4, bias=False)).double()
    theirs = copy.deepcopy(ours)
    inputs = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    adapt(ours, peft_type)
    theirs = by_peft(theirs, peft_type, ['0'])
    randomise(ours)
    for key, value in tensors(theirs.base_model.model[0]).items():
        value.data.copy_(tensor_at(ours[0].adapter.peft_layer, key))
    torch.testing.assert_close(
        ours.eval()(inputs), theirs.eval()(inputs), rtol=1e-10, atol=1e-12
    )
