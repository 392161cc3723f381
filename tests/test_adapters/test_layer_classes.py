from functools import partial

import pytest
import torch
from torch import nn

from mmflora.adapters import (
    ADAPTED_CLASSES,
    FLoRA,
    adapt_layer,
    adapted_class,
    restore_layer,
)


def sample(layer):
    if isinstance(layer, nn.Linear):
        return torch.randn(2, 5, 6)
    if isinstance(layer, nn.Embedding):
        return torch.randint(6, (2, 5))
    return torch.randn(2, 6, *(9, 8, 7)[: layer.weight.dim() - 2])


def mmcv(name):
    from mmcv.cnn.bricks import wrappers

    return getattr(wrappers, name)(6, 8, *([] if name == 'Linear' else [3]))


class Renamed(nn.Linear):
    """Inherits the forward pass, so that nothing is lost."""


CONVS = [f'Conv{kind}{n}d' for kind in ('', 'Transpose') for n in (1, 2, 3)]
ADAPTABLE = {
    'Linear': (lambda: nn.Linear(6, 8), 'AdaptedLinear'),
    'Embedding': (lambda: nn.Embedding(6, 8), 'AdaptedEmbedding'),
    'subclass': (lambda: Renamed(6, 8), 'AdaptedLinear'),
    **{
        name: (partial(getattr(nn, name), 6, 8, 3), f'Adapted{name}')
        for name in CONVS
    },
    **{
        f'mmcv {name}': (partial(mmcv, name), f'Adapted{name}')
        for name in ('Linear', 'Conv2d', 'ConvTranspose2d')
    },
}


@pytest.mark.parametrize(('build', 'kind'), ADAPTABLE.values(), ids=ADAPTABLE)
def test_class_of_an_adapted_layer(build, kind, randomise):
    layer = build()
    own = type(layer)
    assert adapted_class(layer).__name__ == kind
    adapt_layer(layer, FLoRA(layer.weight, rank=3, scale=0.1))
    randomise(layer.adapter)
    assert type(layer) is adapted_class(build())
    inputs = sample(layer)
    output, whole = layer(inputs), layer.weight + layer.delta_weight()
    assert type(restore_layer(layer)) is own
    layer.weight = nn.Parameter(whole.detach())
    torch.testing.assert_close(output, layer(inputs))


def test_every_adapted_class_is_here():
    kinds = {kind for _, kind in ADAPTABLE.values()}
    every = {kind.__name__ for kind in ADAPTED_CLASSES.values()}
    assert every - kinds == {'AdaptedMultiheadAttention'}


class OwnForward(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) * 2


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, weight - weight.mean(), bias)


class OwnTransposedForward(nn.ConvTranspose2d):
    def forward(self, inputs):
        return super().forward(inputs, output_size=[9, 9])


def timm_conv(name):
    import timm.layers

    return getattr(timm.layers, name)(6, 8, 3)


REFUSED = {
    'own forward': lambda: OwnForward(6, 8),
    'own _conv_forward': lambda: OwnConvForward(6, 8, 3),
    'timm Conv2dSame': lambda: timm_conv('Conv2dSame'),
    'timm StdConv2d': lambda: timm_conv('StdConv2d'),
    'timm ScaledStdConv2d': lambda: timm_conv('ScaledStdConv2d'),
    'own transposed forward': lambda: OwnTransposedForward(6, 8, 3),
    'Bilinear': lambda: nn.Bilinear(6, 8, 3),
    'LSTMCell': lambda: nn.LSTMCell(6, 8),
}


@pytest.mark.parametrize('build', REFUSED.values(), ids=REFUSED)
def test_layer_with_a_forward_of_its_own_is_refused(build):
    layer = build()
    weight = next(layer.parameters())
    assert adapted_class(layer) is None
    with pytest.raises(TypeError, match=type(layer).__name__):
        adapt_layer(layer, FLoRA(weight, rank=3))
    assert not hasattr(layer, 'adapter')


def test_adapted_layer_is_not_adapted_again():
    layer = nn.Linear(6, 8)
    adapt_layer(layer, FLoRA(layer.weight))
    assert adapted_class(layer) is None
    with pytest.raises(TypeError, match='AdaptedLinear'):
        adapt_layer(layer, FLoRA(layer.weight))
