import re

import pytest
import torch
from torch import nn

from mmflora.adapters import (
    AdaptedLayer,
    FLoRA,
    adapted_layers,
    inject,
    restore_layer,
)

FLORA = dict(type='FLoRA', rank=2)


class Attention(nn.MultiheadAttention):
    """A subclass reads its weights without calling their layer as well."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4, 8)
        self.fc2 = nn.Linear(8, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.table = nn.Embedding(5, 4)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.attn = Attention(4, 2)
        self.scales = nn.Parameter(torch.ones(4, 4))


ADAPTABLE = [
    'stem',
    *(
        f'blocks.{i}.{name}'
        for i in range(3)
        for name in ('conv', 'fc1', 'fc2')
    ),
]
LEFT_OUT = ['attn.out_proj', 'table', 'up']


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
    'exclude a list': ('.*', ['stem', r'.*\.fc\d'], ADAPTABLE[1::3]),
    'dict': ({r'.*\.conv': {}}, (), ADAPTABLE[1::3]),
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


def test_a_part_of_a_name_does_not_match(net):
    with pytest.raises(ValueError, match='fullmatch'):
        inject(net, FLORA, 'fc1')


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
    assert sorted(report.left_out) == LEFT_OUT
    assert 'Embedding' in report.left_out['table']
    assert 'ConvTranspose2d' in report.left_out['up']
    assert 'without calling it' in report.left_out['attn.out_proj']


def test_excluded_layers_are_not_reported_as_left_out(net):
    report = inject(net, FLORA, exclude=['table', 'up', r'attn\..*'])
    assert report.left_out == {}


def test_timm_layers_with_their_own_forward_are_left_out():
    from timm.layers import Conv2dSame, StdConv2d

    model = nn.Sequential(
        Conv2dSame(3, 4, 3), StdConv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    )
    report = inject(model, FLORA)
    assert report.adapted == ['2']
    assert 'Conv2dSame' in report.left_out['0']
    assert 'StdConv2d' in report.left_out['1']


def test_layers_whose_weights_the_fast_path_of_torch_reads_are_left_out():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.ModuleDict(dict(encoder=encoder, fc=nn.Linear(8, 8)))
    report = inject(model, FLORA)
    assert report.adapted == ['fc']
    assert set(report.left_out) == {
        'encoder.self_attn.out_proj',
        'encoder.linear1',
        'encoder.linear2',
    }


def test_a_layer_used_twice_gets_one_adapter():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict(dict(first=layer, second=layer))
    assert inject(model, FLORA).adapted == ['first']
    assert isinstance(model['second'], AdaptedLayer)


def test_injection_is_undone_by_restoring_each_layer(net):
    keys = list(net.state_dict())
    inject(net, FLORA)
    for layer in adapted_layers(net).values():
        restore_layer(layer)
    assert list(net.state_dict()) == keys
    assert adapted_layers(net) == {}


def error_of(net, *arguments, **options):
    with pytest.raises((ValueError, TypeError)) as caught:
        inject(net, *arguments, **options)
    return caught.type, str(caught.value)


@pytest.mark.parametrize('argument', ['targets', 'exclude'])
def test_pattern_without_a_match_lists_near_names(net, argument):
    kind, message = error_of(net, FLORA, **{argument: r'blocks\.7\.fc1'})
    assert kind is ValueError
    assert f'`{argument}`' in message
    assert repr(r'blocks\.7\.fc1') in message
    assert 'blocks.1.fc1' in message
    assert 'fullmatch' in message


def test_one_idle_pattern_among_several_is_an_error(net):
    _, message = error_of(net, FLORA, ['.*', 'heads?'])
    assert "'heads?'" in message


@pytest.mark.parametrize('argument', ['targets', 'exclude'])
def test_bad_regular_expression(net, argument):
    kind, message = error_of(net, FLORA, **{argument: r'blocks\.(fc'})
    assert kind is ValueError
    assert f'`{argument}`' in message
    assert 'regular expression' in message


def test_no_targets(net):
    kind, message = error_of(net, FLORA, [])
    assert kind is ValueError
    assert '`targets`' in message


def test_only_unsupported_layers(net):
    kind, message = error_of(net, FLORA, ['stem', 'table|up'])
    assert kind is ValueError
    assert "'table|up'" in message
    assert 'Embedding has no adapted class' in message


def test_everything_excluded(net):
    kind, message = error_of(net, FLORA, 'stem', 'stem')
    assert kind is ValueError
    assert 'no layer to adapt' in message


def test_second_injection(net):
    inject(net, FLORA, 'stem')
    kind, message = error_of(net, FLORA)
    assert kind is ValueError
    assert "'stem' already has an adapter" in message


def test_model_without_layers():
    _, message = error_of(nn.ReLU(), FLORA)
    assert 'none of the 0 layers' in message


BAD_ADAPTERS = {
    'no dict': ('FLoRA', TypeError, "type='FLoRA'"),
    'none': (None, TypeError, "type='FLoRA'"),
    'no type': (dict(rank=2), TypeError, "type='FLoRA'"),
    'unknown type': (dict(type='Flora'), ValueError, 'FLoRA'),
}


@pytest.mark.parametrize(
    ('adapter', 'kind', 'part'), BAD_ADAPTERS.values(), ids=BAD_ADAPTERS
)
def test_bad_adapter(net, adapter, kind, part):
    raised, message = error_of(net, adapter)
    assert raised is kind
    assert part in message


def test_unknown_type_of_one_pattern(net):
    kind, message = error_of(net, FLORA, {'stem': dict(type='Flora')})
    assert kind is ValueError
    assert "'Flora'" in message


@pytest.mark.parametrize('options', [None, 3, 'rank'])
def test_options_of_a_pattern_must_be_a_dict(net, options):
    kind, message = error_of(net, FLORA, {'stem': options})
    assert kind is TypeError
    assert "'stem'" in message
    assert repr(options) in message


BAD_OPTIONS = {
    'rank 0': (dict(rank=0), ValueError, 'rank=0'),
    'rank -1': (dict(rank=-1), ValueError, 'rank=-1'),
    'rank 1.5': (dict(rank=1.5), ValueError, 'rank=1.5'),
    'rank True': (dict(rank=True), ValueError, 'rank=True'),
    'two ranks': (dict(rank=[2, 2]), ValueError, 'rank=[2, 2]'),
    'dropout': (dict(dropout=1.0), ValueError, '1.0'),
    'unknown': (dict(rnk=3), TypeError, 'rnk'),
}


@pytest.mark.parametrize(
    ('options', 'kind', 'part'), BAD_OPTIONS.values(), ids=BAD_OPTIONS
)
def test_refused_option_names_the_layer(net, options, kind, part):
    # blocks.1.conv is a convolution, for which two ranks are too few.
    targets = {r'.*\.fc\d': {}, r'blocks\.1\.conv': options}
    raised, message = error_of(net, FLORA, targets)
    assert raised is kind
    assert "'blocks.1.conv' (Conv2d" in message
    assert part in message


def test_an_error_leaves_the_model_as_it_was(net):
    keys = list(net.state_dict())
    error_of(net, FLORA, {'.*': {}, 'stem': {}} | {r'blocks\.2\.fc2': {}}, 'x')
    error_of(net, FLORA, {r'blocks\.[01].*': {}, '.*': dict(rank=0)})
    assert list(net.state_dict()) == keys
    assert adapted_layers(net) == {}
    assert all(value.requires_grad for value in net.parameters())


def test_pattern_error_is_a_plain_message(net):
    _, message = error_of(net, FLORA, 'stm')
    assert re.search(r'nearest names are stem\b', message)


class ReadsWeight(nn.Module):
    """Uses its child's weight past the child, as BEiT's attention does."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 4)
        self.proj = nn.Linear(4, 4)

    def forward(self, x):
        x = nn.functional.linear(x, weight=self.qkv.weight)
        return self.proj(x.to(self.proj.weight.dtype))


def test_layer_whose_weight_the_parent_reads_is_left_out():
    model = nn.Sequential(ReadsWeight())
    report = inject(model, dict(type='FLoRA', rank=2))
    assert report.adapted == ['0.proj']
    assert 'ReadsWeight reads its weight' in report.left_out['0.qkv']


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


def test_only_plain_subclasses_are_adapted():
    model = nn.Sequential(Decorated(4, 4), Configured())
    report = inject(model, dict(type='FLoRA', rank=2))
    assert report.adapted == ['1']
    assert 'Decorated has no adapted class' in report.left_out['0']


def test_scale_zero_is_refused():
    with pytest.raises(ValueError, match='not zero'):
        inject(nn.Sequential(nn.Linear(4, 4)), dict(type='FLoRA', scale=0))
