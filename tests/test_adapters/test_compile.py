"""Compiled in one graph, layers compute what they compute without."""

import pytest
import torch
from layer_cases import CASES, DEFORMABLE, EMPTY, PATHS, call
from method_cases import adapt
from torch import nn

from mmflora.adapters import inject, make_lean
from mmflora.adapters.memory.response_norm import GlobalResponseNorm

CLOSE = dict(rtol=1e-10, atol=1e-10)
WHOLE = [
    ('linear', 'folded'),
    ('linear', 'factored'),
    ('linear, unbatched', 'auto'),
    ('conv', 'folded'),
    ('conv', 'factored'),
    ('conv, same', 'dense'),
    ('linear, read by its parent', 'auto'),
    ('conv1d, same reflect', 'auto'),
    ('conv, depthwise dilated', 'auto'),
    ('conv3d, options', 'auto'),
    ('transposed 2d, options', 'auto'),
    ('embedding', 'auto'),
    ('embedding, padding', 'auto'),
    ('attention', 'auto'),
    ('padding of its own', 'auto'),
    ('standardized, groups', 'auto'),
    ('weight norm', 'auto'),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def compiled(function):
    return torch.compile(function, fullgraph=True, backend='aot_eager')


def gradients(output, sources):
    torch.manual_seed(1)
    upstream = torch.randn_like(output)
    return torch.autograd.grad(output, sources, upstream)


def assert_same(found, wanted, sources, **tolerance):
    torch.testing.assert_close(found, wanted, **tolerance)
    for ours, theirs in zip(
        gradients(found, sources), gradients(wanted, sources), strict=True
    ):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize(('name', 'path'), WHOLE)
def test_forward_and_backward(name, path):
    check_layer(name, path)


@pytest.mark.slow
@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', sorted(set(CASES) - EMPTY - DEFORMABLE))
def test_every_layer_on_every_path(name, path):
    check_layer(name, path)


def check_layer(name, path):
    case = CASES[name]
    layer, inputs = case.adapted(path=path), case.inputs()
    sources = list(layer.adapter.parameters())
    if inputs.is_floating_point():
        sources.append(inputs.requires_grad_())
    function = compiled(lambda x: call(layer, x))
    assert_same(function(inputs), call(layer, inputs), sources, **CLOSE)


@pytest.mark.parametrize('name', ['linear', 'conv, depthwise'])
def test_batches_of_other_sizes(name):
    layer = CASES[name].adapted()
    function = compiled(layer)
    for batch in (2, 3):
        inputs = CASES[name].inputs()[:1].repeat(batch, 1, *(1,) * 2)
        inputs = inputs.reshape(batch, *CASES[name].shape[1:])
        sources = list(layer.adapter.parameters())
        assert_same(function(inputs), layer(inputs), sources, **CLOSE)


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [
        ('linear', torch.bfloat16),
        ('linear', torch.float16),
        ('conv', torch.bfloat16),
        ('conv, depthwise', torch.bfloat16),
    ],
)
def test_autocast(name, dtype):
    layer = CASES[name].adapted(torch.float32)
    inputs = CASES[name].inputs(torch.float32)
    with torch.autocast('cpu', dtype):
        found, wanted = compiled(layer)(inputs), layer(inputs)
    assert found.dtype == wanted.dtype == dtype
    sources = list(layer.adapter.parameters())
    assert_same(found, wanted, sources, rtol=1e-2, atol=1e-1)


@pytest.mark.parametrize('name', ['linear', 'transposed 2d'])
def test_dropout(name):
    layer = CASES[name].adapted(dropout=0.5).train()
    output = compiled(layer)(CASES[name].inputs())
    assert not torch.equal(output, compiled(layer)(CASES[name].inputs()))
    output.sum().backward()
    assert layer.adapter.core.grad.any()


def test_lean_block():
    block = nn.Sequential(
        nn.LayerNorm(6),
        nn.Linear(6, 8),
        nn.GELU(),
        GlobalResponseNorm(8),
        nn.Linear(8, 6),
    ).double()
    inject(block, dict(type='FLoRA', rank=2))
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    make_lean(block)
    inputs = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    sources = [inputs, *block[1].adapter.parameters()]
    assert_same(compiled(block)(inputs), block(inputs), sources, **CLOSE)


@pytest.mark.parametrize('name', ['linear', 'conv'])
@pytest.mark.parametrize('kind', ['LIFT', 'S2FT'])
def test_few_entries(kind, name):
    case = CASES[name]
    layer = adapt(case.stock(), dict(type=kind, density=0.4))
    nn.init.normal_(layer.adapter.values)
    inputs = case.inputs().requires_grad_()
    sources = [layer.adapter.values, inputs]
    function = compiled(layer)
    assert_same(function(inputs), layer(inputs), sources, **CLOSE)
