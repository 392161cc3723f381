"""What autocast and half-precision bases cost, in bounds."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from layer_cases import CASES, DEFORMABLE, EMPTY, call

FILE = Path(__file__).parents[2] / 'benchmarks/precision.py'
LOW = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
PATHS = ('folded', 'factored', 'dense')
# Rounding to a type changes a value by at most this share of it: half of the
# distance of 1 to the next number.  Errors are relative to the norm.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Between inputs and result a path rounds at most six times: two factors, the
# product between them, the result, the frozen part, and, with processors
# whose kernels keep partial sums in the low type, those.
BOUNDS = {dtype: 6 * rounding for dtype, rounding in ROUNDING.items()}
BFLOAT16 = BOUNDS[torch.bfloat16]


def distance(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


def results(layer, inputs):
    """Return the output, and the gradients as they arrive in float32."""
    torch.manual_seed(1)
    output = call(layer, inputs)
    upstream = torch.randn(output.shape).bfloat16()
    sources = list(layer.adapter.parameters())
    if inputs.is_floating_point():
        sources.append(inputs)
    return output, torch.autograd.grad(output, sources, upstream.to(output))


WAYS = [
    # Rounded offsets move the points where a deformable kernel samples.
    *((name, 'auto') for name in CASES if name not in EMPTY | DEFORMABLE),
    *((name, path) for name in ('linear', 'conv') for path in PATHS),
]


@pytest.mark.parametrize('dtype', LOW.values(), ids=LOW)
@pytest.mark.parametrize(('name', 'path'), WAYS)
def test_autocast(name, path, dtype):
    case = CASES[name]
    layer, inputs = case.adapted(torch.float32, path=path), case.inputs()
    layer.adapter.float()
    if inputs.is_floating_point():
        inputs = inputs.float().requires_grad_()
    exact = copy.deepcopy(layer).double()
    wide = inputs
    if inputs.is_floating_point():
        wide = inputs.detach().double().requires_grad_()
    wanted, wanted_gradients = results(exact, wide)
    with torch.autocast('cpu', dtype):
        stock = call(case.stock(torch.float32), inputs)
        found, gradients = results(layer, inputs)
    assert found.dtype == stock.dtype
    assert distance(found.detach(), wanted.detach()) < BOUNDS[dtype]
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        assert ours.dtype == torch.float32
        if theirs.numel() > 1:  # one number is a sum whose terms cancel
            assert distance(ours, theirs) < 5 * BOUNDS[dtype]


@pytest.mark.parametrize('base', [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_an_embedding_are_rounded_once(base):
    layer, indices = CASES['embedding'].adapted(base), torch.arange(7)
    whole = (layer.weight + layer.delta_weight()).to(base)
    with torch.autocast('cpu', torch.bfloat16):
        output = layer(indices)
    assert output.dtype == base
    if base == torch.bfloat16:
        assert torch.equal(output, whole)
    else:
        torch.testing.assert_close(output, whole, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope='module')
def script():
    """Return the module that prints these errors as a table."""
    spec = importlib.util.spec_from_file_location('precision', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KINDS = ('linear 512 to 2048', 'conv 3x3, one group', 'depthwise 7x7')


@pytest.mark.parametrize('kind', KINDS)
def test_trained_updates_lose_little_on_any_path(script, kind):
    for base in script.BASES:
        errors = script.errors(kind, 'late', base)
        for path in PATHS:
            assert errors[path]['update'] < BFLOAT16, (base, path)
            # Of this error the mean over thousands of outputs is left.
            assert errors[path]['slope'] == pytest.approx(1, abs=1e-3)
            check_gradients(kind, errors[path])


def check_gradients(kind, found):
    assert found['dL/dx'] < BFLOAT16
    assert found['dL/dcore'] < BFLOAT16
    # Those of a depthwise kernel are sums over channels, which cancel: what
    # is left of 128 terms of either sign is smaller than they by half.
    cancels = 2 if 'depthwise' in kind else 1
    assert found['dL/dfactors'] < cancels * BFLOAT16


@pytest.mark.parametrize('kind', KINDS)
def test_small_updates_drown_in_the_noise_of_rounding(script, kind):
    """Folded has twice the noise of the outputs' own rounding, unbiased.

    Factored has less, but what is below half a unit of the output is not
    added to it at all.
    """
    for base in script.BASES:
        errors = script.errors(kind, 'early', base)
        noise = errors['rounded']['update']
        assert errors['folded']['update'] < 2 * noise
        assert errors['dense']['update'] < 2 * noise
        if 'depthwise' not in kind:  # it has no factored form
            assert errors['factored']['update'] < noise
            assert errors['factored']['update'] < errors['folded']['update']
        for path in PATHS:
            assert 0.85 < errors[path]['slope'] < 1.1
            check_gradients(kind, errors[path])


@pytest.mark.parametrize('kind', KINDS)
def test_first_updates_arrive_where_the_base_is_float32(script, kind):
    errors = script.errors(kind, 'first', 'fp32')
    assert errors['folded']['slope'] == pytest.approx(1, abs=0.1)
    if 'depthwise' not in kind:
        assert errors['factored']['slope'] < 0.7
    errors = script.errors(kind, 'first', 'bf16')
    for path in PATHS:
        assert errors[path]['slope'] < 0.7
        check_gradients(kind, errors[path])


@pytest.mark.parametrize('name', ['linear', 'conv'])
@pytest.mark.parametrize('path', ['folded', 'factored', 'dense'])
def test_input_of_another_type_is_refused_as_by_the_stock_layer(name, path):
    case = CASES[name]
    layer, inputs = case.stock(torch.bfloat16), case.inputs(torch.float32)
    with pytest.raises(RuntimeError, match='dtype|type'):
        layer(inputs)
    case.adapt(layer, path=path)
    with pytest.raises(
        TypeError, match=r'input is torch\.float32, the weight'
    ):
        layer(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
