import copy

import pytest
import torch
from layer_cases import CASES, EMPTY, PATHS, call
from references import REFERENCES
from torch import nn
from torch.func import functional_call

from mmflora.adapters.layer_weights import weight_name

EXACT = dict(rtol=1e-10, atol=1e-12)


def grouped(name):
    return 'groups' in name or 'depthwise' in name


def leaves(inputs, adapter):
    tensors = [inputs, adapter.core, *adapter.factors]
    return [
        tensor.detach().clone().requires_grad_(tensor.is_floating_point())
        for tensor in tensors
    ]


def reference(stock, delta_weight, inputs, core, factors):
    """Compute a stock layer whose weight is W + s ΔW."""
    name = weight_name(stock)
    weight = getattr(stock, name) + 0.5 * delta_weight(core, factors)

    def function(*arguments):
        return functional_call(stock, {name: weight}, arguments)

    return call(stock, inputs, function)


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', CASES)
def test_output_and_every_gradient(name, path):
    case = CASES[name]
    stock = case.stock()
    layer = case.adapt(copy.deepcopy(stock), path=path)
    inputs = case.inputs()
    ours = inputs.clone().requires_grad_(inputs.is_floating_point())
    output = call(layer, ours)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    found = [ours, layer.adapter.core, *layer.adapter.factors]
    for key, value in layer.named_parameters():
        assert (value.grad is None) == (not key.startswith('adapter.'))

    for source, delta_weight in REFERENCES.items():
        if source == 'unfolding' and grouped(name):
            continue  # the authors' layer knows no groups
        theirs = leaves(inputs, layer.adapter)
        core, *factors = theirs[1:]
        expected = reference(stock, delta_weight, theirs[0], core, factors)
        torch.testing.assert_close(output, expected, **EXACT)
        expected.backward(upstream)
        for tensor, wanted in zip(found, theirs, strict=True):
            if wanted.requires_grad:
                assert wanted.grad.any() or name in EMPTY
                torch.testing.assert_close(tensor.grad, wanted.grad, **EXACT)


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', ['linear', 'conv, groups', 'conv, same'])
def test_trainable_weight_and_bias_get_their_gradients(name, path):
    case = CASES[name]
    stock = case.stock().requires_grad_()
    layer = case.adapt(copy.deepcopy(stock), path=path)
    inputs = case.inputs()
    delta = layer.delta_weight().detach()
    changed = {'weight': stock.weight + delta, 'bias': stock.bias}
    output = layer(inputs)
    expected = functional_call(stock, changed, (inputs,))
    torch.testing.assert_close(output, expected, **EXACT)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream)
    for key in ('weight', 'bias'):
        torch.testing.assert_close(
            getattr(layer, key).grad, getattr(stock, key).grad, **EXACT
        )


@pytest.mark.parametrize('path', PATHS)
def test_trainable_bias_beside_a_frozen_weight(path):
    for name in ('linear', 'linear, unbatched', 'conv', 'conv, depthwise'):
        layer = CASES[name].adapted(path=path)
        layer.bias.requires_grad_()
        output = layer(CASES[name].inputs())
        upstream = torch.randn_like(output)
        output.backward(upstream)
        channels = -1 if isinstance(layer, nn.Linear) else 1
        expected = upstream.movedim(channels, -1)
        expected = expected.reshape(-1, len(layer.bias)).sum(0)
        torch.testing.assert_close(layer.bias.grad, expected, **EXACT)


@pytest.mark.parametrize('size', [(9, 8), (10, 9)], ids=str)
def test_output_size_of_a_transposed_convolution(size):
    stock = nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1).double()
    case = CASES['transposed 2d']
    layer = case.adapt(copy.deepcopy(stock).requires_grad_(False))
    inputs = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    size = [min(size[0], 10), min(size[1], 8)]
    with torch.no_grad():
        stock.weight += layer.delta_weight()
    output = layer(inputs, output_size=size)
    assert list(output.shape[2:]) == size
    torch.testing.assert_close(output, stock(inputs, size), **EXACT)


def test_sparse_embedding_computes_the_same():
    stock = nn.Embedding(7, 8, sparse=True).double().requires_grad_(False)
    layer = CASES['embedding'].adapt(copy.deepcopy(stock))
    indices = torch.tensor([3, 3, 0])
    output = layer(indices)
    expected = (stock.weight + layer.delta_weight())[indices]
    torch.testing.assert_close(output, expected, **EXACT)
    output.sum().backward()
    assert not layer.adapter.core.grad.is_sparse


FUNCTIONS = {
    'key padding': lambda x: dict(
        key_padding_mask=torch.zeros(x.shape[:2]).bool()
    ),
    'causal': lambda x: dict(
        attn_mask=torch.triu(torch.ones(5, 5), 1).bool(), is_causal=True
    ),
    'weights per head': lambda x: dict(average_attn_weights=False),
}


@pytest.mark.parametrize('options', FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize('training', [True, False])
def test_attention_with_its_options(options, training):
    case = CASES['attention']
    stock = case.stock()
    layer = case.adapt(copy.deepcopy(stock))
    inner = CASES['linear, read by its parent']
    inner.adapt(layer.out_proj, path='auto')
    with torch.no_grad():
        stock.in_proj_weight += layer.delta_weight()
        stock.out_proj.weight += layer.out_proj.delta_weight()
    inputs = case.inputs()

    def run(attention):
        return attention.train(training)(*[inputs] * 3, **options(inputs))

    for grad in (True, False):  # PyTorch's fused kernel runs without
        with torch.set_grad_enabled(grad):
            for found, wanted in zip(run(layer), run(stock), strict=True):
                torch.testing.assert_close(found, wanted, **EXACT)
