"""Weight decay pulls towards the frozen layer, or is told to stay away."""

import pytest
import torch
from torch import nn

from mmflora.adapters import adapted_layers, inject, random_starts
from mmflora.adapters.base import Adapter
from mmflora.registry import ADAPTERS

METHODS = {
    name: dict(type=name)
    for name, kind in sorted(ADAPTERS.module_dict.items())
    if issubclass(kind, Adapter) and name != 'HFPEFT' and kind.mergeable
}
# A tenth of the entries is less than a row, whose entries are then equal.
METHODS['SNELL'] |= dict(sparsity=0.5)
METHODS['SNELLA'] |= dict(sparsity=0.5)
METHODS['FLoRA, weight'] = dict(type='FLoRA', start='weight')
# Parameters whose start hides what the others do.
HIDING = {
    'LoCA': ('coefficients',),
    'SNELL': ('left', 'right'),
    'SNELLA': ('left', 'right'),
}
PEFTS = {
    'LORA': set(),
    'VERA': set(),
    'OFT': set(),
    'BOFT': {'boft_s.default'},
    'HRA': {'hra_u.default'},
    'IA3': {'ia3_l.default'},
    'LORA, DoRA': {'lora_magnitude_vector.default.weight'},
}


def adapted(**config):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.Conv2d(8, 8, 3))
    frozen = {0: net[0].weight.clone(), 1: net[1].weight.clone()}
    inject(net, config)
    random_starts(net)
    return [
        (layer, frozen[int(name)])
        for name, layer in adapted_layers(net).items()
    ]


@pytest.mark.parametrize('name', METHODS)
def test_zero_is_the_frozen_layer_or_does_not_decay(name):
    for layer, frozen in adapted(**METHODS[name]):
        adapter = layer.adapter
        steady = set(adapter.no_decay_parameters())
        assert steady <= set(adapter.parameters())
        for shown in HIDING.get(name, ()):
            nn.init.normal_(getattr(adapter, shown))
        for parameter in adapter.parameters():
            value = parameter.detach().clone()
            with torch.no_grad():
                parameter.zero_()
                weight = adapter.adapted_weight(frozen)
                parameter.copy_(value)
            near = torch.allclose(weight, frozen, rtol=1e-5, atol=1e-6)
            assert near == (parameter not in steady)


@pytest.mark.parametrize('name', PEFTS)
def test_parameters_of_peft(name):
    pytest.importorskip('peft')
    kind, _, dora = name.partition(', ')
    options = dict(use_dora=True) if dora else {}
    for layer, _ in adapted(type='HFPEFT', peft_type=kind, **options):
        steady = set(layer.adapter.no_decay_parameters())
        assert PEFTS[name] == {
            key
            for key, parameter in layer.adapter.named_parameters()
            if parameter in steady
        }
