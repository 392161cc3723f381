"""Methods that train what the base already has."""

import copy

import pytest
import torch
from layer_cases import CASES
from method_cases import TUNINGS, adapt
from timm.layers import LayerNorm2d, RmsNorm
from timm.layers.grn import GlobalResponseNorm
from torch import nn

from mmflora.adapters import (
    BitFit,
    adapted_modules,
    disabled,
    inject,
    is_norm,
    merge,
    tuned_parameters,
)

NORMS = [
    nn.LayerNorm(4),
    nn.BatchNorm2d(4),
    nn.GroupNorm(2, 4),
    nn.RMSNorm(4),
    LayerNorm2d(4),
    RmsNorm(4),
    GlobalResponseNorm(4),
]


class Net(nn.Module):
    """Two tokens' worth of everything."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.stem = nn.Conv2d(3, 4, 2)
        self.norm = nn.LayerNorm(4)
        self.attn = nn.MultiheadAttention(4, 2)
        self.fc = nn.Linear(4, 4, bias=False)
        self.bn = nn.BatchNorm2d(4)


TRAINED = {
    'Full': None,
    'BitFit': {
        'stem.bias',
        'norm.bias',
        'attn.in_proj_bias',
        'attn.out_proj.bias',
        'bn.bias',
    },
    'NormTuning': {'norm.weight', 'norm.bias', 'bn.weight', 'bn.bias'},
}


@pytest.mark.parametrize('method', TUNINGS)
def test_trains_exactly_its_parameters_and_adds_none(method):
    net = Net()
    keys, classes = list(net.state_dict()), [type(m) for m in net.modules()]
    report = inject(net, TUNINGS[method])
    expected = TRAINED[method] or {name for name, _ in net.named_parameters()}
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trained == expected == set(report.tuned)
    assert set(tuned_parameters(net)) == expected
    assert report.adapted == []
    assert list(net.state_dict()) == keys
    assert [type(m) for m in net.modules()] == classes


@pytest.mark.parametrize('method', ['Full', 'BitFit'])
@pytest.mark.parametrize('case', CASES)
def test_every_kind_of_layer(method, case):
    stock = CASES[case].stock()
    layer = copy.deepcopy(stock)
    names = BitFit().parameters_of(stock)
    if method == 'BitFit' and not names:
        with pytest.raises(ValueError, match='matches none'):
            adapt(layer, TUNINGS[method])
        return
    adapt(layer, TUNINGS[method])
    own = {n for n, p in layer.named_parameters('', False) if p.requires_grad}
    assert own == set(
        names if method == 'BitFit' else dict(stock.named_parameters('', 0))
    )


@pytest.mark.parametrize('norm', NORMS, ids=lambda norm: type(norm).__name__)
def test_norms_of_every_library(norm):
    assert is_norm(norm)
    report = inject(nn.ModuleDict(dict(norm=norm)), dict(type='NormTuning'))
    assert set(report.tuned) == {
        f'norm.{name}' for name, _ in norm.named_parameters()
    }


def test_linear_layers_are_no_norms():
    assert not is_norm(nn.Linear(4, 4))
    assert not is_norm(nn.Identity())
    with pytest.raises(ValueError, match='matches none of the 0 layers'):
        inject(nn.Linear(4, 4), dict(type='NormTuning'))


MIXED = {r'stem': dict(type='Full'), '.*': {}, '.*norm': dict(type='BitFit')}


def test_methods_mix_by_pattern():
    net = Net()
    report = inject(net, dict(type='LoRA', rank=2, alpha=3.0), MIXED)
    assert report.adapted == ['attn', 'attn.out_proj', 'fc']
    # LoRA does not look at norms: the third pattern finds it.
    assert report.tuned == ['stem.weight', 'stem.bias', 'norm.bias']
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert {name for name in trained if '.adapter.' not in name} == set(
        report.tuned
    )


def test_options_of_one_type_are_not_handed_to_another():
    net = Net()
    targets = {'fc': dict(type='FLoRA', rank=1), '.*': {}}
    inject(net, dict(type='LoRA', rank=3, alpha=3.0), targets)
    assert net.fc.adapter.ranks == (1, 1)
    assert net.stem.adapter.rank == 3


def test_a_tuning_takes_no_options():
    with pytest.raises(TypeError, match='no settings, got rank=3'):
        inject(Net(), dict(type='Full', rank=3))


def test_exclude_names_modules_with_such_parameters():
    net = Net()
    report = inject(net, dict(type='BitFit'), exclude=['attn.*', 'norm'])
    assert report.tuned == ['stem.bias', 'bn.bias']


def test_merging_keeps_what_was_trained():
    net = Net()
    inject(net, dict(type='BitFit'))
    with torch.no_grad():
        net.fc.weight.add_(1)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    way_back = merge(net)
    assert way_back.names == []
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)
    way_back.unmerge()
    with pytest.raises(RuntimeError, match='undone already'):
        way_back.unmerge()


def test_merging_a_mixture():
    net = Net()
    inject(net, dict(type='LoRA', rank=2), MIXED)
    keys = list(Net().state_dict())
    nn.init.normal_(net.fc.adapter.up)
    inputs = torch.randn(3, 4)
    before = net.fc(inputs)
    merge(net)
    assert list(net.state_dict()) == keys
    torch.testing.assert_close(net.fc(inputs), before)


def test_copies_know_what_trains(copy_of):
    net = Net()
    inject(net, dict(type='BitFit'))
    other = copy_of(net)
    assert list(tuned_parameters(other)) == list(tuned_parameters(net))
    assert adapted_modules(other) == {}


def test_disabling_leaves_tuned_parameters_alone():
    net = Net()
    inject(net, dict(type='BitFit'))
    nn.init.ones_(net.stem.bias)
    inputs = torch.randn(1, 3, 4, 4)
    before = net.stem(inputs)
    with disabled(net):
        assert torch.equal(net.stem(inputs), before)
