"""Every weight adapter on every kind of layer."""

import copy

import pytest
import torch
from layer_cases import CASES, EMPTY, PATHS, call
from method_cases import (
    MOVED,
    ONE_PATH,
    ROUNDS,
    SPARSE,
    WEIGHT_METHODS,
    adapt,
    left_out,
    randomise,
)
from torch import nn
from torch.func import functional_call

from mmflora.adapters import (
    adapted_modules,
    inject,
    merge,
    random_starts,
)
from mmflora.adapters.layer_weights import bias_name, weight_name

EXACT = dict(rtol=1e-9, atol=1e-11)
# These differ from another method in one number, or in how it is found.
VARIANTS = (
    *('LoRA, rs', 'PiSSA, iterated', 'FLoRA, gradient', 'LoRA-SB'),
    'LoRA-GA',
    *('SuperLoRA, projected', 'BlockLoRA', 'SNELLA'),
    *('Matryoshka', 'DyLoRA', 'Matryoshka FLoRA'),
)
FEW = ('linear', 'conv', 'conv, groups', 'transposed 2d', 'embedding')
PAIRS = [
    pytest.param(method, case, id=f'{method} | {case}')
    for method in WEIGHT_METHODS
    for case in CASES
    if not CASES[case].read and (method not in VARIANTS or case in FEW)
]
SERVED = [pair for pair in PAIRS if not left_out(*pair.values)]


def paths_of(method, case):
    """Return the paths that differ: grouped layers and others have one."""
    layer = CASES[case].build()
    fast = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    grouped = getattr(layer, 'groups', 1) > 1
    one = grouped or method in ONE_PATH or method in SPARSE
    return PATHS if fast and not one else ('auto',)


@pytest.mark.parametrize(('method', 'case'), PAIRS)
def test_starts_at_the_frozen_layer_or_says_why_not(method, case):
    stock = CASES[case].stock()
    layer = copy.deepcopy(stock)
    model = nn.ModuleDict(dict(layer=layer, other=nn.Linear(3, 3)))
    report = inject(model, WEIGHT_METHODS[method], '.*')
    random_starts(model)
    assert 'other' in report.adapted
    why = left_out(method, case)
    if why:
        assert why in report.left_out['layer']
        assert not hasattr(layer, 'adapter')
        return
    assert 'layer' in report.adapted
    if method in MOVED:
        assert layer.delta_weight().any()
        return
    inputs = CASES[case].inputs()
    output, expected = call(layer, inputs), call(stock, inputs)
    # Attention takes another kernel where nothing needs a gradient.
    if method.startswith(ROUNDS) or 'attention' in case:
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-14)
    else:
        assert torch.equal(output, expected)
    weight = getattr(stock, weight_name(stock))
    assert torch.equal(layer.adapter.adapted_weight(weight), weight)
    assert not layer.delta_weight().any()


@pytest.mark.parametrize(('method', 'case'), SERVED)
def test_output_and_gradients_are_those_of_the_adapted_weight(method, case):
    for path in paths_of(method, case):
        check_output_and_gradients(method, case, path)


def check_output_and_gradients(method, case, path):
    options = {} if path == 'auto' else dict(path=path)
    stock = CASES[case].stock()
    layer = adapt(copy.deepcopy(stock), WEIGHT_METHODS[method], **options)
    randomise(layer)
    reference = copy.deepcopy(layer.adapter)
    inputs = CASES[case].inputs()
    ours = inputs.clone().requires_grad_(inputs.is_floating_point())
    theirs = inputs.clone().requires_grad_(inputs.is_floating_point())

    names = weight_name(stock), bias_name(stock)
    weight, bias = (stock._parameters.get(name) for name in names)
    parameters = {names[0]: reference.adapted_weight(weight)}
    if bias is not None:
        parameters[names[1]] = reference.adapted_bias(bias)

    def function(*arguments):
        return functional_call(stock, parameters, arguments)

    output, expected = call(layer, ours), call(stock, theirs, function)
    torch.testing.assert_close(output, expected, **EXACT)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream)
    if ours.is_floating_point():
        torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)
    wanted = dict(reference.named_parameters())
    # One row of a table may be none of those with a place.
    missed = method in SPARSE and case == 'embedding, one index'
    for name, parameter in layer.adapter.named_parameters():
        assert wanted[name].grad.any() or case in EMPTY or missed
        torch.testing.assert_close(parameter.grad, wanted[name].grad, **EXACT)


@pytest.mark.parametrize(('method', 'case'), SERVED)
def test_delta_weight_is_what_a_merge_adds_and_unmerge_takes_away(
    method, case
):
    stock = CASES[case].stock()
    layer = randomise(adapt(copy.deepcopy(stock), WEIGHT_METHODS[method]))
    model = nn.ModuleDict(dict(layer=layer))
    inputs = CASES[case].inputs()
    before = call(layer, inputs).detach()
    name = weight_name(stock)
    base = getattr(stock, name)
    delta = layer.delta_weight().detach()
    assert delta.any()
    keys = list(model.state_dict())

    way_back = merge(model)
    assert type(layer) is type(stock)
    assert list(layer.state_dict()) == list(stock.state_dict())
    torch.testing.assert_close(call(layer, inputs), before, **EXACT)
    torch.testing.assert_close(getattr(layer, name) - base, delta, **EXACT)

    way_back.unmerge()
    assert list(model.state_dict()) == keys
    assert torch.equal(layer.base_weight(), base)
    own_bias = stock._parameters.get(bias_name(stock))
    if own_bias is not None:
        assert torch.equal(layer.base_bias(), own_bias)
    assert torch.equal(call(layer, inputs), before)


@pytest.mark.parametrize('method', WEIGHT_METHODS)
@pytest.mark.parametrize('case', ['linear', 'conv, groups', 'conv'])
def test_half_precision_weights_have_float32_adapters(method, case):
    if left_out(method, case):
        pytest.skip(left_out(method, case))
    stock = CASES[case].stock(torch.bfloat16)
    layer = adapt(copy.deepcopy(stock), WEIGHT_METHODS[method])
    tensors = layer.adapter.state_dict().values()
    kinds = {t.dtype for t in tensors if t.is_floating_point()}
    assert kinds == {torch.float32}
    inputs = CASES[case].inputs(torch.bfloat16)
    # DoRA and SSF round once more, before they add the bias.
    rounding = dict(rtol=2**-7, atol=2**-7)
    if method not in MOVED:
        torch.testing.assert_close(layer(inputs), stock(inputs), **rounding)
    randomise(layer, 0.1)
    output = layer(inputs)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None for p in layer.adapter.parameters())


@pytest.mark.parametrize(
    'method', [name for name in WEIGHT_METHODS if name not in ONE_PATH]
)
@pytest.mark.parametrize('case', ['linear', 'conv, groups', 'transposed 2d'])
def test_dropout_acts_on_the_update_alone(method, case):
    if left_out(method, case):
        pytest.skip(left_out(method, case))
    stock = CASES[case].stock()
    layer = adapt(copy.deepcopy(stock), WEIGHT_METHODS[method], dropout=0.5)
    inputs = CASES[case].inputs()
    layer.train()
    if method not in MOVED:
        torch.testing.assert_close(layer(inputs), stock(inputs), **EXACT)
    randomise(layer)
    assert not torch.equal(layer(inputs), layer(inputs))
    assert torch.equal(layer.eval()(inputs), layer(inputs))


@pytest.mark.parametrize(
    'case', ['linear', 'conv, groups', 'transposed 2d, options', 'conv1d']
)
def test_ssf_scales_and_shifts_the_frozen_output(case):
    stock = CASES[case].stock()
    layer = randomise(adapt(copy.deepcopy(stock), dict(type='SSF')))
    inputs = CASES[case].inputs()
    frozen = call(stock, inputs)
    dim = 1 if frozen.dim() > 3 or case == 'conv1d' else -1
    scale, shift = layer.adapter.scale, layer.adapter.shift
    expected = frozen.movedim(dim, -1) * scale + shift
    output = call(layer, inputs).movedim(dim, -1)
    torch.testing.assert_close(output, expected, **EXACT)


@pytest.mark.parametrize('method', WEIGHT_METHODS)
def test_copies_and_state_dicts_keep_the_update(method):
    case = CASES['conv']
    layer = randomise(adapt(case.stock(), WEIGHT_METHODS[method]))
    inputs = case.inputs()
    assert torch.equal(copy.deepcopy(layer)(inputs), layer(inputs))
    other = randomise(adapt(case.stock(), WEIGHT_METHODS[method]))
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other(inputs), layer(inputs))
    assert other.adapter.signature() == layer.adapter.signature()


@pytest.mark.parametrize('method', WEIGHT_METHODS)
def test_builds_without_memory(method):
    with torch.device('meta'):
        model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Linear(6, 8))
        inject(model, WEIGHT_METHODS[method])
    assert len(adapted_modules(model)) == 2
    assert all(value.is_meta for value in model.state_dict().values())


@pytest.mark.parametrize(
    'method',
    [
        *('DoRA', 'PiSSA', 'OLoRA', 'LoRA-XS', 'FLoRA, weight'),
        *('SVFit', 'LoLDU', 'SoKA'),
        *('LIFT', 'SaRA', 'S2FT'),
    ],
)
def test_starts_anew_from_another_base(method):
    case = CASES['conv']
    layer = randomise(adapt(case.stock(), WEIGHT_METHODS[method]))
    other = case.stock()
    nn.init.normal_(other.weight)
    with torch.no_grad():
        layer.weight.copy_(other.weight)
        layer.bias.copy_(other.bias)
    layer.adapter.follow(layer)
    inputs = case.inputs()
    torch.testing.assert_close(layer(inputs), other(inputs), **EXACT)


def test_method_that_leaves_every_layer_out_is_an_error():
    with pytest.raises(ValueError, match='square kernels') as caught:
        adapt(nn.Conv1d(4, 4, 3), dict(type='LoRA', form='loralib'))
    assert 'nothing that' in str(caught.value)


def test_ssf_remarks_that_there_is_no_shift_without_a_bias():
    layers = nn.ModuleDict(
        dict(plain=nn.Linear(4, 4, bias=False), full=nn.Linear(4, 4))
    )
    report = inject(layers, dict(type='SSF'))
    assert report.remarks == {'plain': 'no shift: the layer has no bias'}
    assert layers['plain'].adapter.shift is None
    assert layers['full'].adapter.shift is not None


def test_a_bias_that_the_stock_layer_lacks_cannot_be_merged():
    layer = adapt(nn.Linear(4, 4, bias=False), dict(type='LoRA', rank=1))
    layer.adapter.adapted_bias = lambda _: torch.ones(4)
    with pytest.raises(ValueError, match='does not have'):
        merge(nn.ModuleDict(dict(layer=layer)))
    assert hasattr(layer, 'adapter')


def test_rank_of_a_small_weight_is_clipped_and_remarked():
    model = nn.Sequential(nn.Conv2d(2, 9, 1, groups=1), nn.Linear(9, 9))
    for kind in ('LoRA', 'DoRA', 'PiSSA', 'OLoRA', 'LoRAXS'):
        stock = copy.deepcopy(model)
        report = inject(stock, dict(type=kind, rank=8))
        assert report.remarks == {'0': 'rank clipped to 2'}
