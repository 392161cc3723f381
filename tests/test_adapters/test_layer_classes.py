import pytest
import torch
from torch import nn

from mmflora.adapters import (
    AdaptedConv2d,
    AdaptedLinear,
    FLoRA,
    adapt_layer,
    adapted_class,
    restore_layer,
)


def sample(layer):
    shape = (5, 6) if isinstance(layer, nn.Linear) else (6, 9, 8)
    return torch.randn(2, *shape)


def mmcv_conv():
    from mmcv.cnn.bricks.wrappers import Conv2d

    return Conv2d(6, 8, 3, padding=1)


def mmcv_linear():
    from mmcv.cnn.bricks.wrappers import Linear

    return Linear(6, 8)


class Renamed(nn.Linear):
    """Inherits the forward pass, so that nothing is lost."""


ADAPTABLE = {
    'Linear': (lambda: nn.Linear(6, 8), AdaptedLinear),
    'Conv2d': (lambda: nn.Conv2d(6, 8, 3), AdaptedConv2d),
    'mmcv Linear': (mmcv_linear, AdaptedLinear),
    'mmcv Conv2d': (mmcv_conv, AdaptedConv2d),
    'subclass': (lambda: Renamed(6, 8), AdaptedLinear),
}


@pytest.mark.parametrize(('build', 'kind'), ADAPTABLE.values(), ids=ADAPTABLE)
def test_class_of_an_adapted_layer(build, kind, randomise):
    layer = build()
    own = type(layer)
    assert adapted_class(layer) is kind
    adapt_layer(layer, FLoRA(layer.weight, rank=3))
    randomise(layer.adapter)
    inputs = sample(layer)
    expected = layer.compute(
        inputs, layer.weight + layer.delta_weight(), layer.bias
    )
    torch.testing.assert_close(layer(inputs), expected)
    assert type(restore_layer(layer)) is own


class OwnForward(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) * 2


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, weight - weight.mean(), bias)


def timm_conv(name):
    import timm.layers

    return getattr(timm.layers, name)(6, 8, 3)


REFUSED = {
    'own forward': lambda: OwnForward(6, 8),
    'own _conv_forward': lambda: OwnConvForward(6, 8, 3),
    'timm Conv2dSame': lambda: timm_conv('Conv2dSame'),
    'timm StdConv2d': lambda: timm_conv('StdConv2d'),
    'timm ScaledStdConv2d': lambda: timm_conv('ScaledStdConv2d'),
    'ConvTranspose2d': lambda: nn.ConvTranspose2d(6, 8, 3),
    'Embedding': lambda: nn.Embedding(6, 8),
}


@pytest.mark.parametrize('build', REFUSED.values(), ids=REFUSED)
def test_layer_with_a_forward_of_its_own_is_refused(build):
    layer = build()
    assert adapted_class(layer) is None
    with pytest.raises(TypeError, match=type(layer).__name__):
        adapt_layer(layer, FLoRA(layer.weight, rank=3))


def test_adapted_layer_is_not_adapted_again():
    layer = nn.Linear(6, 8)
    adapt_layer(layer, FLoRA(layer.weight))
    assert adapted_class(layer) is None
    with pytest.raises(TypeError, match='AdaptedLinear'):
        adapt_layer(layer, FLoRA(layer.weight))
