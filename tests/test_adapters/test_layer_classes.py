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


class OwnForward(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) * 2


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, weight - weight.mean(), bias)


class OwnTransposedForward(nn.ConvTranspose2d):
    def forward(self, inputs):
        return super().forward(inputs, output_size=[11, 10])


def timm_layer(name, *kernel):
    import timm.layers

    return getattr(timm.layers, name)(6, 8, *kernel)


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
    'timm Linear': (partial(timm_layer, 'Linear'), 'AdaptedLinear'),
    **{
        f'timm {name}': (partial(timm_layer, name, 3), f'Read{name}')
        for name in ('Conv2dSame', 'StdConv2d', 'ScaledStdConv2dSame')
    },
    **{
        kind.__name__: (partial(kind, 6, 8, *kernel), f'Read{kind.__name__}')
        for kind, *kernel in (
            (OwnForward,),
            (OwnConvForward, 3),
            (OwnTransposedForward, 3),
        )
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
    output = layer(inputs)
    whole = layer.base_weight() + layer.delta_weight()
    assert type(restore_layer(layer)) is own
    layer.weight = nn.Parameter(whole.detach())
    torch.testing.assert_close(output, layer(inputs))


def test_every_adapted_class_is_here():
    kinds = {kind for _, kind in ADAPTABLE.values()}
    every = {kind.__name__ for kind in ADAPTED_CLASSES.values()}
    assert every <= kinds


def test_layer_without_a_weight_is_refused():
    layer = nn.LSTMCell(6, 8)
    assert adapted_class(layer) is None
    with pytest.raises(TypeError, match='LSTMCell has no weight of its own'):
        adapt_layer(layer, FLoRA(layer.weight_ih, rank=3))
    assert not hasattr(layer, 'adapter')


def test_adapted_layer_is_not_adapted_again():
    layer = nn.Linear(6, 8)
    adapt_layer(layer, FLoRA(layer.weight))
    assert adapted_class(layer) is None
    with pytest.raises(TypeError, match='AdaptedLinear'):
        adapt_layer(layer, FLoRA(layer.weight))


def test_two_inputs_as_its_class_wants_them():
    layer = nn.Bilinear(4, 5, 6).double()
    inputs = [torch.randn(2, size).double() for size in (4, 5)]
    adapt_layer(layer, FLoRA(layer.weight, rank=3))
    nn.init.normal_(layer.adapter.core)
    whole = layer.base_weight() + layer.delta_weight()
    expected = nn.functional.bilinear(*inputs, whole, layer.bias)
    torch.testing.assert_close(layer(*inputs), expected)


def test_a_fault_of_an_adapter_is_not_taken_for_the_frozen_layer():
    layer = OwnForward(6, 8)
    adapt_layer(layer, FLoRA(layer.weight))
    del layer.adapter.core
    with pytest.raises(RuntimeError, match="no attribute 'core'"):
        layer(torch.randn(2, 6))
