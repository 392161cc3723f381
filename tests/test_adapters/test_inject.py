import collections
import inspect

import pytest
import torch
import torch.nn.functional as F
from inject_cases import ADAPTABLE, FLORA, LEFT_OUT, NO_BLOCK, Net
from mmcv.cnn import ConvModule
from torch import nn

from mmflora.adapters import (
    AdaptedLayer,
    FLoRA,
    adapted_layers,
    candidates,
    inject,
    merge,
)
from mmflora.adapters.layers import ReadLayer


@pytest.fixture
def net():
    return Net()


TARGETS = {
    'all': ('.*', (), ADAPTABLE),
    'one name': ('stem', (), ['stem']),
    'part of a name': (r'blocks\.1\..*', (), ADAPTABLE[4:7]),
    'one of several': (r'.*\.fc[12]', r'blocks\.[02].*', ADAPTABLE[5:7]),
    'list': (['stem', r'.*\.conv'], (), [ADAPTABLE[i] for i in (0, 1, 4, 7)]),
    'tuple': (('stem', r'blocks\.0\.fc1'), (), ['stem', 'blocks.0.fc1']),
    'overlapping list': (['stem', '.*'], (), ADAPTABLE),
    'exclude a list': (
        '.*',
        ['stem', r'.*\.fc\d'],
        [*ADAPTABLE[1:10:3], *NO_BLOCK],
    ),
    'dict': ({r'.*\.conv': {}}, (), ADAPTABLE[1:10:3]),
}


@pytest.mark.parametrize(
    ('targets', 'exclude', 'expected'), TARGETS.values(), ids=TARGETS
)
def test_targets_choose_layers_by_their_whole_name(
    net, targets, exclude, expected
):
    report = inject(net, FLORA, targets, exclude)
    assert report.adapted == expected
    assert list(adapted_layers(net)) == expected


@pytest.mark.parametrize(
    ('targets', 'exclude', 'expected'),
    [('fc', (), ['fc']), ('.*', 'fc', ['fc_out', 'out_fc'])],
    ids=['targets', 'exclude'],
)
def test_a_name_within_a_longer_one(targets, exclude, expected):
    names = ('fc', 'fc_out', 'out_fc')
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    assert inject(model, FLORA, targets, exclude).adapted == expected


def test_first_matching_pattern_gives_the_options(net):
    targets = {
        r'blocks\.0\..*': dict(rank=3, scale=2.0),
        r'blocks\.[01]\.fc1': dict(rank=1),
        '.*': {},
    }
    inject(net, dict(FLORA, scale=0.5), targets)
    settings = {
        name: (layer.adapter.ranks[0], layer.adapter.scale)
        for name, layer in adapted_layers(net).items()
    }
    assert settings['blocks.0.fc1'] == (3, 2.0)
    assert settings['blocks.1.fc1'] == (1, 0.5)
    assert settings['blocks.1.fc2'] == (2, 0.5)
    assert settings['stem'] == (2, 0.5)


def test_options_of_a_mapping_stay_untouched(net):
    adapter, targets = dict(FLORA), {'.*': dict(rank=3)}
    inject(net, adapter, targets)
    assert adapter == FLORA
    assert targets == {'.*': dict(rank=3)}


def test_configs_of_mmengine_serve(net):
    from mmengine.config import ConfigDict

    inject(net, ConfigDict(FLORA), ConfigDict({r'.*\.fc1': dict(rank=[3, 1])}))
    layer = adapted_layers(net)['blocks.2.fc1']
    assert layer.adapter.ranks == (3, 1)


@pytest.mark.parametrize('kind', ['FLoRA', 'mmflora.FLoRA', FLoRA])
def test_ways_to_name_a_type(net, kind):
    inject(net, dict(type=kind, rank=2), 'stem')
    assert isinstance(net.stem.adapter, FLoRA)


def test_only_adapters_train(net):
    inject(net, FLORA, r'blocks\..*')
    trained = {
        name for name, value in net.named_parameters() if value.requires_grad
    }
    assert trained == {
        name for name, _ in net.named_parameters() if '.adapter.' in name
    }
    assert trained


def test_base_keys_and_values_stay(net):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    layers = dict(net.named_modules())
    inject(net, FLORA)
    after = net.state_dict()
    stays = [key for key in after if '.adapter.' not in key]
    assert stays == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(
        net.get_submodule(name) is layer for name, layer in layers.items()
    )


def test_report_says_what_was_left_out_and_why(net):
    report = inject(net, FLORA)
    assert report.left_out.keys() == LEFT_OUT.keys()
    for name, reason in LEFT_OUT.items():
        assert reason in report.left_out[name]
        layer = net.get_submodule(name)
        own = layer.parameters(recurse=False)
        assert not any(parameter.requires_grad for parameter in own)


def test_excluded_layers_are_not_reported_as_left_out(net):
    report = inject(net, FLORA, exclude=['bounded', 'exp.*', 'wide'])
    assert report.left_out == {}


def test_layers_whose_weights_the_fast_path_of_torch_reads_are_adapted():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.ModuleDict(dict(encoder=encoder, fc=nn.Linear(8, 8)))
    report = inject(model, FLORA)
    assert report.left_out == {}
    assert {
        name: type(layer).__name__
        for name, layer in adapted_layers(model).items()
    } == {
        'encoder.self_attn': 'ReadMultiheadAttention',
        'encoder.self_attn.out_proj': 'ReadNonDynamicallyQuantizableLinear',
        'encoder.linear1': 'ReadLinear',
        'encoder.linear2': 'ReadLinear',
        'fc': 'AdaptedLinear',
    }


class ReadsKernel(nn.Module):
    """Reads the weights of children in any of its methods."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.queries = nn.Embedding(4, 4)
        self.fc = nn.Linear(4, 4)
        nn.init.zeros_(self.fc.weight)

    def forward(self, x):
        x = nn.functional.conv2d(x, self.conv.weight, self.conv.bias)
        return self.fc(x.mT @ self.attended())

    def attended(self):
        return self.queries.weight


@pytest.mark.parametrize('fused', [True, False])
def test_a_kernel_that_is_multiplied_by_its_norm_has_its_update(
    randomise, fused
):
    block = ConvModule(
        3, 4, 3, norm_cfg=dict(type='BN'), efficient_conv_bn_eval=fused
    ).double()
    inject(block, dict(type='LoRA', rank=2))
    randomise(block)
    nn.init.uniform_(block.norm.running_var, 0.5, 2.0)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for norm_trains in (True, False):
        block.norm.train(norm_trains)
        found = block(images)
        kernel = block.conv.base_weight() + block.conv.delta_weight()
        expected = block.norm(F.conv2d(images, kernel)).relu()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = torch.autograd.grad(
        found.sum(), list(block.conv.adapter.parameters())
    )
    assert all(gradient.any() for gradient in gradients)
    assert isinstance(block.conv, ReadLayer) is fused


def test_weights_of_any_kind_that_their_parent_reads(randomise):
    model = ReadsKernel().double()
    inject(model, FLORA)
    assert [type(layer).__name__ for layer in model.children()] == [
        'ReadConv2d',
        'ReadEmbedding',
        'AdaptedLinear',
    ]
    for layer in model.children():
        randomise(layer.adapter)
    inputs = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    output = model(inputs)
    output.sum().backward()
    assert all(
        value.grad.any()
        for layer in model.children()
        for value in layer.adapter.parameters()
    )
    way_back = merge(model)
    torch.testing.assert_close(model(inputs), output, rtol=1e-10, atol=1e-12)
    way_back.unmerge()
    assert torch.equal(model(inputs), output)


def test_a_layer_used_twice_gets_one_adapter():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict(dict(first=layer, second=layer))
    assert inject(model, FLORA).adapted == ['first']
    assert isinstance(model['second'], AdaptedLayer)


class ReadsWeight(nn.Module):
    """Uses its child's weight past the child, as BEiT's attention does."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 4)
        self.proj = nn.Linear(4, 4)

    def forward(self, x):
        x = nn.functional.linear(x, weight=self.qkv.weight)
        return self.proj(x.to(self.proj.weight.dtype))


def test_layer_whose_weight_the_parent_reads_gives_the_adapted_weight():
    model = nn.Sequential(ReadsWeight())
    report = inject(model, dict(type='FLoRA', rank=2))
    assert report.adapted == ['0.qkv', '0.proj']
    assert report.left_out == {}
    kinds = [type(layer).__name__ for layer in adapted_layers(model).values()]
    # The parent asks the other one for nothing but its type.
    assert kinds == ['ReadLinear', 'AdaptedLinear']


def test_clipped_ranks_are_remarked():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3))
    report = inject(model, dict(type='FLoRA', rank=8, kernel_rank=2))
    assert report.remarks == {'0': 'ranks clipped to (8, 3, 2, 2)'}


class Decorated(nn.Linear):
    """A subclass with more than a constructor of its own."""

    @property
    def size(self):
        return self.weight.numel()


class Configured(nn.Linear):
    """A subclass that only is made in another way."""

    def __init__(self):
        super().__init__(4, 4)


def test_subclasses_keep_what_they_define():
    model = nn.Sequential(Decorated(4, 4), Configured())
    report = inject(model, dict(type='FLoRA', rank=2))
    assert report.adapted == ['0', '1']
    assert model[0].size == 16
    assert [type(layer).__name__ for layer in model] == [
        'ReadDecorated',
        'AdaptedLinear',
    ]


@pytest.mark.parametrize('method', ['LoRA', 'Houlsby', 'BitFit'])
def test_many_patterns_on_many_layers_cost_one_look_each(monkeypatch, method):
    """180 patterns on 800 modules: what is slow is done once."""
    blocks = [
        nn.ModuleDict(
            dict(
                norm=nn.LayerNorm(2),
                mlp=nn.Linear(2, 2),
                act=nn.GELU(),
                out=nn.Linear(2, 2),
            )
        )
        for _ in range(160)
    ]
    model = nn.Sequential(*blocks)
    options = {'BitFit': {}, 'LoRA': dict(rank=1), 'Houlsby': dict(width=1)}
    targets = {rf'{i}\.mlp': options[method] for i in range(160)}
    targets |= {rf'[{i}]+\.mlp|{i}\.mlp': {} for i in range(20)}
    counts = collections.Counter()

    def count(place, name):
        own = getattr(place, name)

        def counted(*args, **kwargs):
            counts[name, args[0] if name == 'getsource' else ''] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(place, name, counted)

    candidates._read_in.cache_clear()
    count(inspect, 'getsource')
    for name in ('read_layers', 'blocks_of', 'why_not_adapted'):
        count(candidates, name)
    inject(model, dict(type=method), targets)
    looks = counts.pop(('why_not_adapted', ''), 0)
    assert looks <= 320
    assert counts['read_layers', ''] == 1
    assert max(counts.values()) == 1, counts
