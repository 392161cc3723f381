import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmflora.adapters import (
    AdaptedLayer,
    FLoRA,
    adapt_layer,
    restore_layer,
)

EXACT = dict(rtol=1e-10, atol=1e-12)


def conv(inputs=6, outputs=8, kernel=3, **options):
    return nn.Conv2d, (inputs, outputs, kernel), options


LAYERS = {
    'linear': (nn.Linear, (6, 8), {}),
    'linear, no bias': (nn.Linear, (6, 8), dict(bias=False)),
    'conv': conv(),
    'stride': conv(stride=(2, 1)),
    'tuple padding': conv(padding=(2, 1)),
    'same': conv(kernel=(4, 3), padding='same', dilation=(1, 2)),
    'valid': conv(padding='valid'),
    'dilation': conv(dilation=(2, 1), padding=2),
    'groups': conv(groups=2, padding=1),
    'depthwise': conv(6, 6, kernel=5, groups=6, padding=2),
    'depthwise, twofold': conv(6, 12, groups=6),
    'non-square kernel': conv(kernel=(5, 2)),
    'no bias': conv(bias=False),
    'reflect': conv(padding=(1, 2), padding_mode='reflect'),
    'circular': conv(padding=(2, 1), padding_mode='circular'),
    'replicate, same': conv(
        kernel=(2, 5), padding='same', padding_mode='replicate'
    ),
    '1x1': conv(kernel=1),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def stock(request):
    kind, arguments, options = request.param
    return kind(*arguments, **options).double()


def sample(layer, batch=2):
    shape = (5, 6) if isinstance(layer, nn.Linear) else (6, 9, 8)
    return torch.randn(batch, *shape, dtype=torch.float64)


def adapted(layer, randomise, **options):
    """Return an adapted copy of a layer, every entry of it random."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    options = dict(rank=3, scale=0.5) | options
    layer = adapt_layer(layer, FLoRA(layer.weight, **options))
    randomise(layer.adapter)
    return layer


def reference(layer, inputs, core, factors):
    """Compute the layer from its settings, sharing no code with mmflora."""
    if core.dim() == 2:
        update = torch.einsum('ab,ia,jb->ij', core, *factors)
        return F.linear(
            inputs, layer.weight + layer.adapter.scale * update, layer.bias
        )
    update = torch.einsum('abcd,ia,jb,hc,wd->ijhw', core, *factors)
    weight = layer.weight + layer.adapter.scale * update
    padding = []
    for axis in (1, 0):  # F.pad names the last axis first
        if layer.padding == 'same':
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            padding += [total // 2, total - total // 2]
        elif layer.padding == 'valid':
            padding += [0, 0]
        else:
            padding += [layer.padding[axis]] * 2
    mode = layer.padding_mode.replace('zeros', 'constant')
    return F.conv2d(
        F.pad(inputs, padding, mode=mode),
        weight,
        layer.bias,
        layer.stride,
        0,
        layer.dilation,
        layer.groups,
    )


def test_forward_and_every_gradient_equal_einsum(stock, randomise):
    layer = adapted(stock, randomise)
    tensors = [sample(layer), layer.adapter.core, *layer.adapter.factors]
    ours = [tensor.detach().requires_grad_() for tensor in tensors]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in tensors]

    output = layer(ours[0])
    expected = reference(layer, theirs[0], theirs[1], theirs[2:])
    torch.testing.assert_close(output, expected, **EXACT)

    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream)
    gradients = [
        ours[0].grad,
        layer.adapter.core.grad,
        *(factor.grad for factor in layer.adapter.factors),
    ]
    for gradient, tensor in zip(gradients, theirs, strict=True):
        assert tensor.grad.any()
        torch.testing.assert_close(gradient, tensor.grad, **EXACT)
    assert layer.weight.grad is None


def test_start_is_the_frozen_layer_exactly(stock):
    layer = copy.deepcopy(stock)
    adapt_layer(layer, FLoRA(layer.weight, rank=3))
    inputs = sample(layer)
    assert torch.equal(layer(inputs), stock(inputs))


def test_delta_weight_is_what_the_forward_pass_adds(stock, randomise):
    layer = adapted(stock, randomise)
    inputs = sample(layer)
    expected = layer.compute(inputs, layer.weight, layer.bias) + layer.compute(
        inputs, layer.delta_weight(), None
    )
    torch.testing.assert_close(layer(inputs), expected, **EXACT)


def test_keys_gain_the_adapters_and_lose_none(stock):
    before = list(stock.state_dict())
    layer = adapt_layer(stock, FLoRA(stock.weight, rank=3))
    after = list(layer.state_dict())
    modes = range(stock.weight.dim())
    assert after == [
        *before,
        'adapter.core',
        *(f'adapter.factors.{mode}' for mode in modes),
    ]


def test_layer_changes_in_place(stock):
    calls = []
    stock.register_forward_hook(lambda *_: calls.append('hook'))
    weight, bias = stock.weight, stock.bias
    layer = adapt_layer(stock, FLoRA(stock.weight, rank=3))
    assert layer is stock
    assert isinstance(layer, AdaptedLayer)
    assert isinstance(layer, layer.stock_class)
    assert layer.weight is weight
    assert layer.bias is bias
    layer(sample(layer))
    assert calls == ['hook']


def test_restored_layer_is_stock(stock, randomise):
    layer = adapted(stock, randomise)
    restored = restore_layer(layer)
    assert restored is layer
    assert type(restored) is type(stock)
    assert vars(restored).keys() == vars(stock).keys()
    assert list(restored.state_dict()) == list(stock.state_dict())
    inputs = sample(stock)
    assert torch.equal(restored(inputs), stock(inputs))


@pytest.mark.parametrize(
    'copy_of',
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=['deepcopy', 'pickle'],
)
def test_copies_compute_the_same_and_stand_alone(stock, randomise, copy_of):
    layer = adapted(stock, randomise)
    other = copy_of(layer)
    inputs = sample(layer)
    assert type(other) is type(layer)
    assert torch.equal(other(inputs), layer(inputs))
    with torch.no_grad():
        other.adapter.core.zero_()
    assert not torch.equal(other(inputs), layer(inputs))
    assert type(restore_layer(other)) is type(stock)


def test_state_dict_round_trip(stock, randomise):
    layer = adapted(stock, randomise)
    other = adapted(stock, randomise)
    other.load_state_dict(layer.state_dict(), strict=True)
    inputs = sample(layer)
    assert torch.equal(other(inputs), layer(inputs))


def test_stock_state_dict_loads_after_adaptation(stock, randomise):
    layer = adapted(stock, randomise)
    with torch.no_grad():
        layer.weight.zero_()
    result = layer.load_state_dict(stock.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(key.startswith('adapter.') for key in result.missing_keys)
    assert torch.equal(layer.weight, stock.weight)


def test_dropout_is_for_training_and_the_update_alone(stock, randomise):
    layer = adapted(stock, randomise, dropout=0.5)
    plain = adapted(stock, randomise)
    plain.adapter.load_state_dict(layer.adapter.state_dict())
    inputs = sample(layer)

    layer.eval()
    assert torch.equal(layer(inputs), plain(inputs))

    layer.train()
    torch.manual_seed(7)
    output = layer(inputs)
    torch.manual_seed(7)
    dropped = F.dropout(inputs, 0.5)
    expected = layer.compute(inputs, layer.weight, layer.bias) + layer.compute(
        dropped, layer.delta_weight(), None
    )
    torch.testing.assert_close(output, expected, **EXACT)
    assert not torch.equal(output, plain(inputs))


def test_dropout_keeps_the_mean(randomise):
    layer = adapted(nn.Linear(6, 8).double(), randomise, dropout=0.2)
    inputs = torch.randn(1, 6, dtype=torch.float64)
    expected = layer.eval()(inputs)
    outputs = layer.train()(inputs.expand(40_000, -1))
    spread = outputs.std(dim=0) / 200  # the mean's standard error
    assert ((outputs.mean(dim=0) - expected).abs() < 5 * spread).all()


def test_zero_core_with_dropout_starts_at_the_frozen_layer(stock):
    layer = copy.deepcopy(stock)
    adapt_layer(layer, FLoRA(layer.weight, rank=3, dropout=0.3)).train()
    inputs = sample(layer)
    assert torch.equal(layer(inputs), stock(inputs))


def float32(layer):
    return layer.float(), sample(layer).float()


def test_autocast_rounds_the_folded_weight_once(stock, randomise):
    layer, inputs = float32(adapted(stock, randomise))
    folded = (layer.weight + layer.delta_weight()).bfloat16()
    bias = None if layer.bias is None else layer.bias.bfloat16()
    expected = layer.compute(inputs.bfloat16(), folded, bias)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = layer(inputs)
        delta = layer.delta_weight()
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    assert torch.equal(delta, layer.delta_weight())
    output.float().sum().backward()
    assert layer.adapter.core.grad.dtype == torch.float32


@pytest.mark.parametrize('dropout', [0.0, 0.5])
def test_bfloat16_base_under_float32_adapters(stock, randomise, dropout):
    layer = copy.deepcopy(stock).bfloat16().requires_grad_(False)
    adapt_layer(layer, FLoRA(layer.weight, rank=3, dropout=dropout))
    randomise(layer.adapter)
    inputs = sample(layer).bfloat16()
    output = layer(inputs)
    assert output.dtype == torch.bfloat16
    assert layer.weight.dtype == torch.bfloat16
    if not dropout:
        folded = (layer.weight.float() + layer.delta_weight()).bfloat16()
        assert torch.equal(output, layer.compute(inputs, folded, layer.bias))
    output.float().sum().backward()
    assert layer.adapter.core.grad.dtype == torch.float32


def test_meta_device(stock):
    inputs = sample(stock)
    expected = stock(inputs).shape
    layer = stock.to('meta')
    adapt_layer(layer, FLoRA(layer.weight, rank=3))
    output = layer(inputs.to('meta'))
    assert output.is_meta
    assert output.shape == expected
