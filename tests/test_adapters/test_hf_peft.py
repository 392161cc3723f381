"""What an adapter of the bridge does in a model: keys, copies, merging."""

import copy
import io

import pytest
import torch
from hf_peft_cases import (
    SINGLE,
    TYPES,
    adapt,
    adapter_keys,
    adapters,
    images,
    net,
    randomise,
    trained,
)

from mmflora.adapters import adapted_layers, disabled, merge

# BEFT's bias, of a layer without any, and Lily's router stay adapters.
UNMERGEABLE = ('BEFT', 'LILY')
# Peft's gradient hooks there are closures, which no pickle takes.
UNPICKLABLE = ('OSF',)


@pytest.mark.parametrize('peft_type', TYPES)
def test_keys_and_base_stay(peft_type):
    model = net(peft_type)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapt(model, peft_type)
    after = model.state_dict()
    new = [key for key in after if key not in before]
    assert new
    assert all('.adapter.' in key for key in new)
    assert not any('base_layer' in key for key in new)
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    layers = adapted_layers(model)
    for name, kind in dict(net().named_modules()).items():
        assert isinstance(model.get_submodule(name), type(kind))
    assert layers


@pytest.mark.parametrize('peft_type', TYPES)
def test_adapters_train_and_the_base_does_not(peft_type):
    model = net(peft_type)
    adapt(model, peft_type)
    randomise(model)
    model.train()(images(model)).square().sum().backward()
    for name, parameter in model.named_parameters():
        trains = '.adapter.' in name
        assert parameter.requires_grad == trains, name
        assert (parameter.grad is not None) == trains, name


@pytest.mark.parametrize('peft_type', TYPES)
def test_copies_share_nothing_and_compute_the_same(peft_type):
    model, inputs = trained(peft_type)
    expected = model(inputs)
    copied = copy.deepcopy(model)
    copies = [copied]
    if peft_type not in UNPICKLABLE:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copies.append(torch.load(file, weights_only=False))
    for other in copies:
        assert torch.equal(other(inputs), expected)
        layer = next(iter(adapted_layers(other).values()))
        shadow = layer.adapter.peft_layer.base_layer
        assert shadow.weight is layer.weight
        assert shadow._parameters is layer._parameters
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        assert not torch.allclose(other(inputs), expected)
    assert torch.equal(model(inputs), expected)


@pytest.mark.parametrize('peft_type', TYPES)
def test_state_dict_carries_all(peft_type):
    """Another base and other random numbers are replaced in full."""
    model, inputs = trained(peft_type)
    other = net(peft_type, seed=11)
    adapt(other, peft_type)
    other.eval()
    assert not torch.allclose(other(inputs), model(inputs))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    # Peft keeps nothing that is not saved: equal, bit for bit.
    assert torch.equal(other(inputs), model(inputs))


@pytest.mark.parametrize('peft_type', TYPES)
def test_moves_between_types(peft_type):
    model, inputs = trained(peft_type)
    expected = model(inputs)
    model.float()
    single = model(inputs.float())
    assert single.dtype == torch.float32
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(
        single.double(), expected.double(), rtol=1e-3, atol=1e-4 * scale
    )
    layer = next(iter(adapted_layers(model).values()))
    assert layer.adapter.peft_layer.base_layer.weight is layer.weight


@pytest.mark.parametrize('peft_type', TYPES)
def test_disabled_computes_the_frozen_model(peft_type):
    model, inputs = trained(peft_type)
    frozen = net(peft_type)(inputs)
    assert not torch.allclose(model(inputs), frozen)
    with disabled(model):
        assert torch.equal(model(inputs), frozen)


@pytest.mark.parametrize('peft_type', TYPES)
def test_merge_and_unmerge(peft_type):
    model, inputs = trained(peft_type)
    stock = {k: v.clone() for k, v in net(peft_type).state_dict().items()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(inputs).detach()
    if peft_type in UNMERGEABLE:
        with pytest.raises(ValueError, match=r"'mlp\.\d'.*cannot be merged"):
            merge(model)
        assert torch.equal(model(inputs), expected)
        return
    way_back = merge(model)
    assert list(model.state_dict()) == list(stock)
    for name, module in net().named_modules():
        assert type(model.get_submodule(name)) is type(module)
    # float64, but for methods of which peft computes a part in float32
    bound = 1e-4 if peft_type in SINGLE else 1e-9
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        model(inputs), expected, rtol=bound, atol=bound * scale
    )
    changed = [
        k for k, v in model.state_dict().items() if v.ne(stock[k]).any()
    ]
    assert changed
    way_back.unmerge()
    assert torch.equal(model(inputs), expected)
    assert list(model.state_dict()) == list(before)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_delta_weight_is_the_difference_of_merged_and_frozen():
    model, _ = trained('OFT')
    frozen = net('OFT').head.weight
    delta = model.head.delta_weight()
    merge(model)
    torch.testing.assert_close(model.head.weight - frozen, delta)


@pytest.mark.parametrize(
    ('peft_type', 'shared'),
    [
        ('VERA', ('vera_A', 'vera_B')),
        ('PVERA', ('pvera_A', 'pvera_B')),
        ('RANDLORA', ('randlora_A', 'randlora_B')),
        ('VBLORA', ('vblora_vector_bank',)),
        ('UNILORA', ('unilora_theta_d',)),
        ('TINYLORA', ('tinylora_v',)),
    ],
)
def test_shared_parts_are_saved_once(peft_type, shared):
    model, inputs = trained(peft_type)
    keys = adapter_keys(model)
    for name in shared:
        assert len({k.split('.adapter.')[0] for k in keys if name in k}) == 1
        modules = {
            id(getattr(adapter.peft_layer, name))
            for adapter in adapters(model).values()
        }
        assert len(modules) == 1
    expected = model(inputs)
    copied = copy.deepcopy(model)
    other = adapters(copied)['head'].peft_layer
    assert getattr(other, shared[0]) is not getattr(
        adapters(model)['head'].peft_layer, shared[0]
    )
    assert torch.equal(copied(inputs), expected)


def test_one_layer_is_not_enough_for_two_banks():
    """Layers of one injection share; those of another have their own."""
    first, second = net(), net()
    adapt(first, 'VBLORA')
    adapt(second, 'VBLORA')
    banks = {
        id(adapters(model)['head'].peft_layer.vblora_vector_bank)
        for model in (first, second)
    }
    assert len(banks) == 2


def test_dropout_acts_in_training_only():
    model = net()
    adapt(model, 'LORA', lora_dropout=0.5)
    randomise(model)
    inputs = images(model)
    model.train()
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


def test_half_precision_base_has_single_precision_adapters():
    model = net().to(torch.bfloat16)
    adapt(model, 'LORA')
    for adapter in adapters(model).values():
        assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    with torch.autocast('cpu', torch.bfloat16):
        assert model(images(net()).bfloat16()).dtype == torch.bfloat16
    merge(model)
    assert model.head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_constants_do_not_train_whatever_the_type(dtype):
    for peft_type, constant in dict(
        ADALORA='ranknum', DELORA='delora_w_norm'
    ).items():
        model = net().to(dtype)
        adapt(model, peft_type)
        names = [n for n, _ in model.named_parameters() if constant in n]
        assert not names
        assert any(constant in name for name, _ in model.named_buffers())


def test_printed_model_names_the_method():
    model = net()
    adapt(model, 'LORA', r=4)
    assert 'LORA, r=4' in repr(model.head)
    assert adapters(model)['head'].signature() == 'HFPEFT(LORA, r=4)'
