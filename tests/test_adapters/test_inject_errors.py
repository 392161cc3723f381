import pytest
from inject_cases import FLORA, Net
from torch import nn

from mmflora.adapters import adapted_layers, inject


@pytest.fixture
def net():
    return Net()


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
    kind, message = error_of(net, FLORA, ['stem', 'experts|wide'])
    assert kind is ValueError
    assert "'experts|wide'" in message
    assert 'matrix of experts' in message


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
    'two ranks': (dict(rank=[2, 2]), ValueError, 'rank=[2, 2]'),
    'dropout': (dict(dropout=1.0), ValueError, '1.0'),
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


class Tied(nn.Module):
    """An output layer that holds the weight of an embedding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.inner = nn.Linear(4, 4)
        self.twice = self.inner  # one module of two names
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.words.weight


@pytest.mark.parametrize('targets', ['.*', 'out', 'words'])
def test_a_weight_that_two_layers_hold_is_refused(targets):
    net = Tied()
    kind, message = error_of(net, dict(type='LoRA', rank=2), targets)
    assert kind is ValueError
    assert "'words.weight'" in message or "'out.weight'" in message
    assert 'exclude' in message
    assert not adapted_layers(net)
    assert all(parameter.requires_grad for parameter in net.parameters())
    inject(net, dict(type='LoRA', rank=2), exclude='words|out')
    assert list(adapted_layers(net)) == ['inner']
