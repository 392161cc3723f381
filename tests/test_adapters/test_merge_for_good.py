"""A merge without a way back: the same weights, in less memory."""

import gc
import weakref

import pytest
import torch
from torch import nn

from mmflora.adapters import (
    adapted_layers,
    inject,
    merge,
    merge_for_good,
)


def network(method, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Flatten(),
        nn.Linear(8 * 16, 6),
    )
    inject(net, dict(type=method))
    for layer in adapted_layers(net).values():
        for parameter in layer.adapter.parameters():
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return net.double()


@pytest.mark.parametrize('method', ['FLoRA', 'LoRA', 'DoRA', 'SSF', 'PiSSA'])
@torch.no_grad()
def test_the_same_as_merge(method):
    final, undoable = network(method), network(method)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = undoable(images)
    names = merge_for_good(final)
    assert names == merge(undoable).names
    assert not adapted_layers(final)
    states = final.state_dict(), undoable.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    assert not any('adapter' in key for key in states[0])
    torch.testing.assert_close(final(images), expected, rtol=1e-10, atol=1e-12)


def test_base_weights_and_adapters_are_dropped():
    net = network('FLoRA')
    layers = adapted_layers(net).values()
    old = [weakref.ref(layer.base_weight()) for layer in layers]
    old += [weakref.ref(layer.adapter) for layer in layers]
    del layers
    merge_for_good(net)
    gc.collect()
    assert len(old) == 6
    assert [ref() for ref in old] == [None] * 6


def test_only_one_layer_is_in_memory_twice(monkeypatch):
    """When a layer is merged, the base of the one before is gone."""
    net = network('FLoRA')
    layers = list(adapted_layers(net).values())
    old = [weakref.ref(layer.base_weight()) for layer in layers]
    alive = []
    kind = type(layers[0].adapter)
    own = kind.adapted_weight

    def watched(adapter, weight):
        gc.collect()
        alive.append(sum(ref() is not None for ref in old))
        return own(adapter, weight)

    monkeypatch.setattr(kind, 'adapted_weight', watched)
    del layers
    merge_for_good(net)
    assert alive == [3, 2, 1]


def test_a_refusal_changes_nothing(monkeypatch):
    net = network('FLoRA')
    before = {k: v.clone() for k, v in net.state_dict().items()}
    adapter = adapted_layers(net)['4'].adapter
    monkeypatch.setattr(type(adapter), 'mergeable', False)
    with pytest.raises(ValueError, match='cannot be merged'):
        merge_for_good(net)
    monkeypatch.undo()
    monkeypatch.setattr(
        type(adapter),
        'adapted_bias',
        lambda self, bias: torch.ones(8) if bias is None else bias,
    )
    with pytest.raises(ValueError, match='gives it a bias'):
        merge_for_good(net)
    assert len(adapted_layers(net)) == 3
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
