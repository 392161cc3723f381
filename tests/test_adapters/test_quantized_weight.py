"""A quantized weight: its values, and all that is done with parameters."""

import copy
import io
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import weights_to_cpu
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmflora.adapters.quantized import (
    MissingBitsAndBytes,
    Quantization,
    QuantizedWeight,
    Scheme,
    stored_tensors,
)
from mmflora.adapters.quantized.kernels import REQUIREMENT
from mmflora.adapters.quantized_base import quantize_base

WAYS = {
    'int8': dict(bits=8),
    'int8 in wide blocks': dict(bits=8, block_size=256),
    'nf4': dict(bits=4),
    'nf4 in wide blocks': dict(bits=4, block_size=128),
    'fp4': dict(bits=4, quant_type='fp4'),
}
# Of a Gaussian: a little above what each way gives.
ERRORS = dict(int8=0.008, nf4=0.1, fp4=0.14)
# The tables: QLoRA's appendix E, and what the kernels define as fp4.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
FP4 = (0.0, 0.0052083333, 1 / 6, 0.25, 1 / 3, 0.5, 2 / 3, 1.0)
TABLES = dict(
    int8=torch.arange(-127, 128) / 127,
    nf4=torch.tensor(NF4),
    fp4=torch.tensor([*(-x for x in FP4[:0:-1]), *FP4]),
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def scheme(request):
    return Quantization(**request.param).scheme


def stored(dense, scheme):
    weight = QuantizedWeight.empty(dense, scheme)
    weight.store(dense)
    return weight


def layer_in(bits, dtype=torch.float32, out=30, inputs=50):
    """Return a quantized layer, and the weight that it had."""
    layer = nn.Linear(inputs, out, dtype=dtype).requires_grad_(False)
    dense = layer.weight.clone()
    quantize_base(nn.Sequential(layer), Quantization(bits=bits))
    return layer, dense


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('shape', [(30, 50), (64, 64), (3, 5), (128, 96)])
def test_values_are_the_nearest_of_the_table(scheme, dtype, shape):
    dense = torch.randn(shape).to(dtype)
    weight = stored(dense, scheme)
    assert (weight.shape, weight.dtype) == (dense.shape, dtype)
    assert weight.numel() == dense.numel()
    flat = F.pad(
        dense.float().flatten(), (0, -dense.numel() % scheme.block_size)
    )
    blocks = flat.view(-1, scheme.block_size)
    scales = blocks.abs().amax(1, keepdim=True)
    table = TABLES[scheme.quant_type]
    values = weight.dequantize().double().flatten()
    rounded = F.pad(values, (0, len(flat) - len(values))).view_as(blocks)
    distance = (blocks[..., None] - table * scales[..., None]).abs().amin(-1)
    # Of two equally near ones either (the 8-bit kernel takes steps of 2^-15
    # of the scale for equal); in half precision, rounded once more.
    slack = 2**-14 if dtype in DTYPES[:2] else 4.5e-3
    found = (rounded - blocks).abs()
    assert (found <= distance + slack * scales).all()
    if dense.numel() > 1000:
        error = float((values - dense.double().flatten()).norm())
        assert error < ERRORS[scheme.quant_type] * float(dense.norm())
        assert weight.error == pytest.approx(
            error / float(dense.double().norm()), rel=1e-3
        )


def test_bytes_are_those_of_the_bits(scheme):
    dense = torch.randn(256, 320, dtype=torch.bfloat16)
    weight = stored(dense, scheme)
    blocks = dense.numel() // scheme.block_size
    assert weight.nbytes == dense.numel() * scheme.bits // 8 + 2 * blocks
    assert weight.nbytes == sum(part.nbytes for part in stored_tensors(weight))
    assert stored_tensors(dense) == [dense]


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_rounded_values_round_to_themselves(scheme, dtype):
    weight = stored(torch.randn(30, 50).to(dtype), scheme)
    again = stored(weight.dequantize(), scheme)
    assert torch.equal(again, weight)
    codes = weight.codes.clone()
    weight.store(weight.dequantize())
    assert torch.equal(weight.codes, codes)


def test_zeros_stay_zeros(scheme):
    weight = stored(torch.zeros(8, 64), scheme)
    assert not weight.dequantize().any()
    assert weight.error == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('bits', [8, 4])
def test_values_that_are_not_finite_are_refused(value, bits):
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight[3, 5] = value
    with pytest.raises(ValueError, match=r"Layer '0': .* not finite"):
        quantize_base(nn.Sequential(layer), Quantization(bits=bits))


@pytest.mark.parametrize('bits', [8, 4])
def test_it_is_a_parameter_like_any(bits):
    layer, dense = layer_in(bits, torch.bfloat16)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    assert not weight.requires_grad
    assert [name for name, _ in layer.named_parameters()] == ['weight', 'bias']
    rounded = weight.dequantize()
    # What BaseModule.init_weights asks of every parameter.
    assert weight.data.mean() == rounded.mean()
    assert torch.equal(weight + 1, rounded + 1)
    assert torch.equal(weight.t(), rounded.t())
    assert not torch.equal(weight, dense)
    assert 'bits' in repr(weight)


@pytest.mark.parametrize('bits', [8, 4])
def test_copies_and_files_hold_the_same_bits(bits):
    layer, _ = layer_in(bits)
    weight = layer.weight
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    copies = {
        'deepcopy': copy.deepcopy(layer).weight,
        'clone': weight.clone(),
        'file': loaded['weight'],
        'weights_to_cpu': weights_to_cpu(layer.state_dict())['weight'],
        'to': copy.deepcopy(layer).to('cpu', torch.float16).weight,
    }
    for name, other in copies.items():
        assert type(other) is QuantizedWeight, name
        assert torch.equal(other.codes, weight.codes), name
        assert torch.equal(other.scales, weight.scales), name
        assert other.origin == weight.origin, name
        assert other.error == weight.error, name
    assert isinstance(copies['deepcopy'], nn.Parameter)
    assert copies['to'].dtype == torch.float16
    for name in ('deepcopy', 'clone', 'file', 'to'):
        assert not copies[name].shares_with(weight), name
    copies['deepcopy'].detach().zero_()
    assert weight.any()
    fresh, _ = layer_in(bits)
    fresh.load_state_dict(loaded)
    assert torch.equal(fresh.weight.codes, weight.codes)
    assert fresh.weight.origin == weight.origin
    known = weight.origin, weight.error
    layer.load_state_dict(layer.state_dict())
    assert (weight.origin, weight.error) == known


@pytest.mark.parametrize('bits', [8, 4])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_dense_weights_are_rounded_on_arrival(bits, dtype):
    layer, dense = layer_in(bits, dtype)
    expected, origin = layer.weight.clone(), layer.weight.origin
    layer.weight.detach().zero_()
    assert layer.weight.origin != origin, 'aliases tell each other'
    layer.load_state_dict(dict(weight=dense, bias=layer.bias))
    assert torch.equal(layer.weight.codes, expected.codes)
    assert layer.weight.origin == origin
    with torch.no_grad():
        nn.init.constant_(layer.weight, 0.25)
        layer.weight.mul_(2).clamp_(max=0.4)
    torch.testing.assert_close(
        layer.weight.dequantize(),
        torch.full_like(dense, 0.4),
        rtol=1e-2,
        atol=0,
    )


def test_another_weight_can_lend_its_memory():
    (one, _), (two, _) = layer_in(4), layer_in(4)
    one.weight.data = two.weight.data
    assert one.weight.shares_with(two.weight)
    assert one.weight.origin == two.weight.origin
    for other in (layer_in(8)[0].weight.data, torch.randn(30, 50)):
        with pytest.raises(TypeError, match='copy_'):
            one.weight.data = other


@pytest.mark.parametrize('bits', [8, 4])
def test_shapes_alone_need_no_values(bits):
    with torch.device('meta'):
        layer = nn.Linear(64, 32).requires_grad_(False)
    quantize_base(nn.Sequential(layer), Quantization(bits=bits), fill=False)
    assert layer.weight.is_meta
    assert layer(torch.empty(2, 64, device='meta')).shape == (2, 32)
    layer.to_empty(device='cpu')
    assert type(layer.weight) is QuantizedWeight
    assert layer.weight.codes.device.type == 'cpu'
    assert layer.weight.origin == ''
    with FakeTensorMode():
        layer = nn.Linear(64, 32).requires_grad_(False)
        quantize_base(nn.Sequential(layer), Quantization(bits=bits))
        inputs = torch.randn(2, 64, requires_grad=True)
        layer(inputs).sum().backward()
        assert inputs.grad.shape == (2, 64)


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'bitsandbytes', None)
    layer = nn.Linear(64, 64)
    dense = layer.weight
    with pytest.raises(MissingBitsAndBytes, match='pip install') as caught:
        quantize_base(nn.Sequential(layer), Quantization(bits=4))
    assert 'mmflora[quantize]' in str(caught.value)
    assert REQUIREMENT in str(caught.value)
    assert layer.weight is dense


@pytest.mark.parametrize(
    ('options', 'error', 'said'),
    [
        (8, TypeError, 'dict(bits=8)'),
        (dict(), TypeError, 'dict(bits=8)'),
        (dict(bits=2), ValueError, 'bits is 8 or 4'),
        (dict(bits=True), ValueError, 'bits is 8 or 4'),
        (dict(bits='4'), ValueError, "got bits='4'"),
        (dict(bits=8, quant_type='nf4'), ValueError, 'one of int8'),
        (dict(bits=4, quant_type='int4'), ValueError, 'one of nf4, fp4'),
        (dict(bits=4, block_size=48), ValueError, 'one of 64, 128'),
        (dict(bits=4, blocksize=64), TypeError, "Did you mean 'block_size'"),
        (dict(bits=4, double=True), TypeError, 'Its options are bits'),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, error, said):
    with pytest.raises(error) as caught:
        Quantization.of(options)
    assert said in str(caught.value)


def test_options_read_as_they_stand():
    assert Quantization.of(None) is None
    assert Quantization.of(dict(bits=8)).scheme == Scheme(8, 'int8', 64)
    nf4 = Quantization.of(dict(bits=4, block_size=128))
    assert nf4.scheme == Scheme(4, 'nf4', 128)
    assert str(nf4.scheme) == '4 bits (nf4, blocks of 128)'
