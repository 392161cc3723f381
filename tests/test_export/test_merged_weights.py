"""A merge that loses or turns one adapter is found, in every type."""

import copy

import pytest
import torch
from torch import nn

from mmflora.adapters import adapted_layers, inject
from mmflora.export.merged_state import cast_parameters, merged_state
from mmflora.export.merged_weights import check_weights, sample_weights

TYPES = [torch.float32, torch.bfloat16, torch.float16]
METHODS = ['FLoRA', 'LoRA', 'DoRA', 'PiSSA', 'SSF']
# Updates of a hundredth of the weight: few steps of bfloat16, whose values
# are 2⁻⁸ apart, and far below the tenth that outputs may be off in it.
SMALL = 1e-2


def network(method, dtype, size=SMALL):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.ConvTranspose2d(8, 8, 2),
        nn.Conv2d(8, 16, 1),
        nn.MultiheadAttention(16, 2),
        nn.Linear(16, 6),
    ).to(dtype)
    inject(model, dict(type=method))
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            weight = layer.base_weight().float()
            for parameter in layer.adapter.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            delta = layer.delta_weight()
            shrink(layer, float(size * weight.norm() / delta.norm()))
    return model


@torch.no_grad()
def shrink(layer, factor):
    """Multiply an update, -1 to turn it, 0 to drop it."""
    adapter = layer.adapter
    if isinstance(getattr(adapter, 'scale', None), nn.Parameter):  # SSF
        adapter.scale.sub_(1).mul_(factor).add_(1)
        if adapter.shift is not None:
            adapter.shift.mul_(factor)
        return
    own = adapter.adapted_weight

    def adapted_weight(weight):
        wide = weight.float()
        return (wide + factor * (own(wide) - wide)).to(weight.dtype)

    adapter.adapted_weight = adapted_weight


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('file', [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('dtype', TYPES, ids=str)
def test_each_adapter_counts(method, dtype, file):
    model = network(method, dtype)
    samples = sample_weights(model, file)
    assert all(
        sample.survives()
        for name, sample in samples.items()
        if name.endswith('weight')
    )

    def merge(name=None, factor=1.0):
        other = copy.deepcopy(model)
        if name is not None:
            shrink(adapted_layers(other)[name], factor)
        state = merged_state(other)
        return cast_parameters(state, other, file)

    check_weights(samples, merge())
    names = list(adapted_layers(model))
    assert len(names) == 7
    for name in names:
        for factor in (0, -1):
            with pytest.raises(ValueError, match=rf"'{name}\..*differs"):
                check_weights(samples, merge(name, factor))


def test_what_rounding_loses_is_named():
    model = network('LoRA', torch.bfloat16, size=1e-5)
    samples = sample_weights(model, None)
    assert '5.weight' in check_weights(samples, merged_state(model))
    zero = network('LoRA', torch.bfloat16, size=0)
    assert check_weights(sample_weights(zero, None), merged_state(zero)) == []
