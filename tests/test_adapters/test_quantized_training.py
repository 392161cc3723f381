"""Adapters over a quantized base compute as over the dense one it gives."""

import copy

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmflora.adapters import (
    adapted_layers,
    disabled,
    inject,
    merge,
    merge_for_good,
)
from mmflora.adapters.quantized import Quantization, QuantizedWeight
from mmflora.adapters.quantized_base import (
    check_frozen,
    dequantize_base,
    linear_weights,
    quantization_table,
    quantize_base,
    quantized_weights,
    refuse_quantized,
)
from mmflora.engine.strategies.fsdp_units import check_can_shard

METHODS = {
    'none': None,
    'FLoRA': dict(type='FLoRA', rank=3),
    'FLoRA, folded': dict(type='FLoRA', rank=3, path='folded'),
    'FLoRA, factored': dict(type='FLoRA', rank=3, path='factored'),
    'FLoRA, dense': dict(type='FLoRA', rank=3, path='dense'),
    'LoRA': dict(type='LoRA', rank=3),
    'DoRA': dict(type='DoRA', rank=3),
    'DoRA, dense': dict(type='DoRA', rank=3, path='dense'),
    'PiSSA': dict(type='PiSSA', rank=3),
    'LoRA-XS': dict(type='LoRAXS', rank=3),
    'SSF': dict(type='SSF'),
    'LIFT': dict(type='LIFT', rank=3),
    'BitFit': dict(type='BitFit'),
    'LoHa of peft': dict(type='HFPEFT', peft_type='LOHA', r=3),
}
BITS = (8, 4)


def network(dtype=torch.float32):
    net = nn.Sequential(nn.Linear(40, 72), nn.GELU(), nn.Linear(72, 40))
    return net.to(dtype).requires_grad_(False)


def pair(method, bits, dtype):
    """Return a quantized network and the same with a dense base."""
    net = network(dtype)
    quantize_base(net, Quantization(bits=bits))
    dense = copy.deepcopy(net)
    dequantize_base(dense)
    assert not quantized_weights(dense)
    if method is not None:
        for model in (net, dense):
            torch.manual_seed(1)
            inject(model, method)
    trained = dict(net.named_parameters())
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
                trained[name].copy_(parameter)
    return net, dense


def gradients(model, inputs):
    inputs = inputs.clone().requires_grad_()
    output = model(inputs)
    (output.square() / 2).sum().backward()
    found = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return output, dict(found, input=inputs.grad)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)
def test_outputs_and_gradients_are_those_of_the_dense_base(
    method, bits, dtype
):
    net, dense = pair(method, bits, dtype)
    assert len(quantized_weights(net)) == 2
    inputs = torch.randn(2, 5, 40, dtype=dtype)
    output, found = gradients(net, inputs)
    expected, right = gradients(dense, inputs)
    tight = dict(rtol=1e-10, atol=1e-12)
    # Sums in another order, where the dense path is another function.
    close = tight if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output, expected, **close)
    assert found.keys() == right.keys()
    for name, gradient in right.items():
        torch.testing.assert_close(found[name], gradient, **close)
        assert gradient.any(), name


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('name', ['none', 'FLoRA', 'DoRA', 'BitFit'])
def test_under_autocast_too(name, bits):
    net, dense = pair(METHODS[name], bits, torch.bfloat16)
    inputs = torch.randn(2, 5, 40)
    with torch.autocast('cpu', torch.bfloat16):
        output, found = gradients(net, inputs)
        expected, right = gradients(dense, inputs)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    for key, gradient in right.items():
        assert found[key].dtype == gradient.dtype
        assert torch.equal(found[key], gradient), key


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize(
    'name', [name for name in METHODS if 'peft' not in name]
)
def test_nothing_dense_is_kept_for_the_backward_pass(name, bits):
    net, dense = pair(METHODS[name], bits, torch.float32)

    def kept(model):
        shapes = []

        def pack(tensor):
            if not isinstance(tensor, (QuantizedWeight, nn.Parameter)):
                shapes.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(2, 5, 40, requires_grad=True))
        weights = {(40, 72), (72, 40)}
        return [shape for shape in shapes if shape in weights]

    assert not kept(net)
    if METHODS[name] and METHODS[name].get('path') == 'dense':
        assert kept(dense), 'else the test would see nothing'


def test_types_that_differ_are_refused_as_by_stock_layers():
    net = network(torch.bfloat16)
    quantize_base(net, Quantization(bits=8))
    with pytest.raises(TypeError, match='autocast'):
        net(torch.randn(2, 40))


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiles_without_graph_breaks(bits, backend):
    net, _ = pair(METHODS['FLoRA'], bits, torch.float32)
    inputs = torch.randn(2, 5, 40)
    expected, right = gradients(net, inputs)
    net.zero_grad()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    output, found = gradients(compiled, inputs)
    torch.testing.assert_close(output, expected)
    for name, gradient in right.items():
        key = name if name == 'input' else f'_orig_mod.{name}'
        torch.testing.assert_close(found[key], gradient)


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('name', ['FLoRA', 'DoRA', 'SSF', 'LoHa of peft'])
def test_merging_gives_dense_stock_layers_and_back(name, bits):
    net, dense = pair(METHODS[name], bits, torch.float32)
    inputs = torch.randn(2, 5, 40)
    before = net(inputs)
    bits_before = {
        key: (weight.codes.clone(), weight.scales.clone())
        for key, weight in quantized_weights(net).items()
    }
    way_back = merge(net)
    assert {type(module) for module in net} == {nn.Linear, nn.GELU}
    assert not quantized_weights(net)
    assert all(type(p) is nn.Parameter for p in net.parameters())
    torch.testing.assert_close(net(inputs), before, rtol=1e-4, atol=1e-4)
    merge(dense)
    for one, two in zip(net.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    way_back.unmerge()
    after = quantized_weights(net)
    assert after.keys() == bits_before.keys()
    for key, (codes, scales) in bits_before.items():
        assert torch.equal(after[key].codes, codes)
        assert torch.equal(after[key].scales, scales)
    assert torch.equal(net(inputs), before)


@pytest.mark.parametrize('merging', [merge, merge_for_good])
def test_layers_without_an_adapter_become_dense_on_merging(merging):
    net = network()
    quantize_base(net, Quantization(bits=8))
    inject(net, METHODS['FLoRA'], targets='0')
    rounded = net[2].weight.dequantize()
    merging(net)
    assert type(net[2].weight) is nn.Parameter
    assert torch.equal(net[2].weight, rounded)
    assert not net[2].weight.requires_grad


def test_disabled_adapters_leave_the_rounded_base():
    net, dense = pair(METHODS['FLoRA'], 4, torch.float32)
    inputs = torch.randn(2, 5, 40)
    with disabled(net), disabled(dense):
        assert torch.equal(net(inputs), dense(inputs))


def test_dropout_drops_on_the_update_alone():
    net, dense = pair(dict(type='FLoRA', rank=3, dropout=0.5), 4, torch.float)
    inputs = torch.randn(2, 5, 40)
    outputs = []
    for model in (net, dense):
        torch.manual_seed(3)
        outputs.append(model.train()(inputs))
    assert torch.equal(*outputs)


def test_only_linear_weights_are_quantized():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.LayerNorm(8),
        nn.Embedding(5, 8),
        nn.Linear(8, 8),
    )
    quantize_base(net, Quantization(bits=8))
    assert list(quantized_weights(net)) == ['3.weight']
    with pytest.raises(ValueError, match='no linear layer'):
        quantize_base(net[:3], Quantization(bits=8))


def test_weights_that_a_parent_reads_stay():
    net = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert list(linear_weights(net, Quantization(bits=8))) == ['1']


def test_tied_weights_stay_tied():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net[1].weight = net[0].weight
    quantize_base(net, Quantization(bits=8))
    assert net[0].weight is net[1].weight
    assert isinstance(net[0].weight, QuantizedWeight)
    dequantize_base(net)
    assert net[0].weight is net[1].weight


def test_targets_and_exclude_choose():
    def chosen(**options):
        return list(linear_weights(network(), Quantization(bits=8, **options)))

    assert chosen() == ['0', '2']
    assert chosen(targets='2') == ['2']
    assert chosen(exclude=['2']) == ['0']
    with pytest.raises(ValueError, match=r'quantize\.targets.*nearest'):
        chosen(targets='fc1')
    with pytest.raises(ValueError, match=r'quantize\.exclude.*nearest'):
        chosen(exclude='1')
    with pytest.raises(ValueError, match='leave no layer'):
        chosen(exclude='.*')


def test_what_trains_is_refused():
    net = network()
    quantize_base(net, Quantization(bits=8))
    check_frozen(net, ['0.bias'])
    with pytest.raises(ValueError, match='1 weights are to train') as caught:
        check_frozen(net, ['0.bias', '2.weight'])
    assert 'quantize.exclude' in str(caught.value)
    net[0].weight.requires_grad_(True)
    with pytest.raises(ValueError, match='cannot train'):
        net(torch.randn(2, 40))


def test_table_names_kinds_and_errors():
    net = network()
    quantize_base(net, Quantization(bits=4))
    inject(net, METHODS['FLoRA'])
    assert len(adapted_layers(net)) == 2
    *_, row = quantization_table(net).splitlines()
    errors = [weight.error for weight in quantized_weights(net).values()]
    name, count, parameters, _, mean, worst = row.split()
    assert (name, count, parameters) == ('N', '2', '5,760')
    assert float(mean) == pytest.approx(sum(errors) / 2, abs=1e-5)
    assert float(worst) == pytest.approx(max(errors), abs=1e-5)


def test_engines_that_shard_parameters_refuse_few_bits():
    net = network()
    refuse_quantized(net, 'FSDPStrategy')
    quantize_base(net, Quantization(bits=8))
    with pytest.raises(ValueError, match='FSDPStrategy cannot spread'):
        check_can_shard(net)
    with pytest.raises(ValueError, match=r'quantize=None.*dist_train'):
        refuse_quantized(net, 'DeepSpeed')


def wrapped_step(rank, folder):
    """Train one step in one of two processes; write what it has."""
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/meeting',
        rank=rank,
        world_size=2,
    )
    torch.manual_seed(0)
    net, _ = pair(METHODS['FLoRA'], 4, torch.float32)
    before = copy.deepcopy(quantized_weights(net))
    wrapped = DistributedDataParallel(net)
    torch.manual_seed(rank)
    wrapped(torch.randn(2, 5, 40)).square().mean().backward()
    after = quantized_weights(net)
    same = all(
        torch.equal(after[name].codes, weight.codes)
        and after[name].origin == weight.origin
        for name, weight in before.items()
    )
    grads = {n: p.grad for n, p in net.named_parameters() if p.requires_grad}
    torch.save(dict(same=same, grads=grads), folder / f'{rank}.pth')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_and_leave_the_bits(tmp_path):
    mp.spawn(wrapped_step, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    assert all(rank['same'] for rank in ranks)
    torch.manual_seed(0)
    net, _ = pair(METHODS['FLoRA'], 4, torch.float32)
    losses = []
    for rank in range(2):
        torch.manual_seed(rank)
        losses.append(net(torch.randn(2, 5, 40)).square().mean())
    (sum(losses) / 2).backward()
    for name, gradient in ranks[0]['grads'].items():
        assert torch.equal(gradient, ranks[1]['grads'][name])
        expected = net.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected)


@pytest.mark.gpu
@pytest.mark.parametrize('bits', BITS)
def test_on_a_gpu_the_bits_mean_the_same(bits):
    net, _ = pair(METHODS['FLoRA'], bits, torch.bfloat16)
    moved = copy.deepcopy(net).cuda()
    dense = copy.deepcopy(moved)
    dequantize_base(dense)
    for name, weight in quantized_weights(moved).items():
        own = net.get_parameter(name)
        assert weight.codes.is_cuda
        assert torch.equal(weight.codes.cpu(), own.codes)
        assert torch.equal(weight.dequantize().cpu(), own.dequantize())
    inputs = torch.randn(2, 5, 40, device='cuda')
    with torch.autocast('cuda', torch.bfloat16):
        output, found = gradients(moved, inputs)
        expected, right = gradients(dense, inputs)
    torch.testing.assert_close(output, expected)
    for name, gradient in right.items():
        torch.testing.assert_close(found[name], gradient)
    again = copy.deepcopy(moved)
    for name, weight in quantized_weights(again).items():
        values = moved.get_parameter(name).dequantize()
        weight.detach().zero_()
        weight.detach().copy_(values)  # rounded on the GPU
        assert torch.equal(weight.dequantize(), values)
