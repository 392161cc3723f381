"""What cannot be adapted is said, with the remedy, and changes nothing."""

import copy

import pytest
import torch
from timm.layers import CondConv2d
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from mmflora.adapters import FLoRA, adapt_layer, adapted_layers, inject

DROPOUT = dict(type='FLoRA', rank=2, dropout=0.1)


def attention():
    return nn.MultiheadAttention(8, 2)


NO_PLACE = {
    'embedding': (lambda: nn.Embedding(5, 4), False),
    'attention': (attention, False),
    'read linear': (lambda: nn.Linear(4, 4), True),
}


@pytest.mark.parametrize(('build', 'read'), NO_PLACE.values(), ids=NO_PLACE)
def test_dropout_without_an_input_to_drop_from(build, read):
    layer = build()
    kind = type(layer)
    update = FLoRA(next(layer.parameters()), dropout=0.1)
    with pytest.raises(ValueError, match=r'dropout=0\.1.*targets') as caught:
        adapt_layer(layer, update, read=read)
    assert kind.__name__ in str(caught.value)
    assert type(layer) is kind
    assert not hasattr(layer, 'adapter')


def model():
    return nn.ModuleDict(
        dict(fc=nn.Linear(8, 8), attn=attention(), table=nn.Embedding(5, 4))
    )


def test_dropout_is_refused_by_name_before_anything_changes():
    net = model()
    before = copy.deepcopy(net)
    with pytest.raises(ValueError, match=r"Layer 'attn' .*dropout=0\.1"):
        inject(net, DROPOUT)
    assert adapted_layers(net) == {}
    assert [type(m) for m in net.modules()] == [
        type(m) for m in before.modules()
    ]
    assert all(value.requires_grad for value in net.parameters())


def test_the_remedy_that_the_error_names_works():
    net = model()
    none = dict(dropout=0.0)
    inject(net, DROPOUT, {r'attn(\..*)?': none, 'table': none, '.*': {}})
    dropouts = {
        name: layer.adapter.dropout
        for name, layer in adapted_layers(net).items()
    }
    assert dropouts == {
        'fc': 0.1,
        'attn': 0.0,
        'attn.out_proj': 0.0,
        'table': 0.0,
    }


class Bytes(nn.Module):
    def __init__(self):
        super().__init__()
        codes = torch.zeros(4, 4, dtype=torch.uint8)
        self.weight = nn.Parameter(codes, requires_grad=False)


class Taken(nn.Bilinear):
    def __init__(self):
        super().__init__(4, 4, 4)
        self.adapter = nn.Identity()


class Product(ParametrizationList):
    """A weight that is the product of two."""

    def __init__(self):
        class Factors(nn.Module):
            def forward(self, left, right):
                return left @ right

            def right_inverse(self, whole):
                return whole, torch.eye(len(whole))

        super().__init__([Factors()], nn.Parameter(torch.ones(4, 4)))


LEFT_OUT = {
    'max_norm': (lambda: nn.Embedding(5, 4, max_norm=1.0), 'max_norm'),
    'kdim': (lambda: nn.MultiheadAttention(8, 2, kdim=4), 'kdim or vdim'),
    'vdim': (lambda: nn.MultiheadAttention(8, 2, vdim=4), 'kdim or vdim'),
    'norm': (lambda: nn.LayerNorm((4, 4)), 'NormTuning'),
    'sparse': (lambda: nn.EmbeddingBag(5, 4, sparse=True), 'sparse'),
    'experts': (lambda: CondConv2d(4, 4, 1), 'matrix of experts'),
    'bytes': (Bytes, 'uint8'),
    'name taken': (Taken, "'adapter' of its own"),
    'several tensors': (Product, 'several tensors'),
}


@pytest.mark.parametrize(('build', 'why'), LEFT_OUT.values(), ids=LEFT_OUT)
def test_layer_is_left_out_with_the_reason(build, why):
    net = nn.ModuleDict(dict(layer=build(), fc=nn.Linear(4, 4)))
    kind = type(net['layer'])
    report = inject(net, dict(type='FLoRA', rank=2))
    assert why in report.left_out['layer']
    assert type(net['layer']) is kind
    assert 'fc' in report.adapted
    with pytest.raises(TypeError, match=why):
        adapt_layer(build(), FLoRA(torch.empty(8, 4)))
