"""Adapter checkpoints over quantized bases: which base, how stored."""

import copy

import pytest
import torch
from intern_vit_files import SMALL
from torch import nn

from mmflora.adapters.quantized_base import (
    dequantize_base,
    quantized_weights,
)
from mmflora.checkpoint import adapter_state_dict, content_hash
from mmflora.models import FLoRAInternViT, InternViT
from mmflora.tasks.shared_base import SharedBase

ALLOW = dict(allow_other_quantization=True)
WAYS = dict(
    dense=None,
    int8=dict(bits=8),
    nf4=dict(bits=4),
    fp4=dict(bits=4, quant_type='fp4'),
    part=dict(bits=4, exclude=r'.*fc1'),
)


def write(path, seed=0):
    torch.manual_seed(seed)
    state = InternViT(**SMALL).state_dict()
    torch.save({k: state[k] for k in state if 'pyramid' not in k}, path)
    return dict(type='Pretrained', checkpoint=str(path))


@pytest.fixture
def base(tmp_path):
    return write(tmp_path / 'base.pth')


def build(base, way='nf4', **options):
    options = dict(adapter=dict(type='FLoRA', rank=2)) | options
    return FLoRAInternViT(
        **SMALL, init_cfg=base, quantize=WAYS[way], **options
    )


def trained_state(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    with adapter_state_dict():
        return copy.deepcopy(model.state_dict())


def same_trained(one, two):
    values = dict(two.named_parameters())
    return all(
        torch.equal(parameter, values[name])
        for name, parameter in one.named_parameters()
        if parameter.requires_grad
    )


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('in_place', [True, False])
def test_a_checkpoint_holds_no_base_and_finds_it(base, way, in_place):
    trained = build(base, way)
    state = trained_state(trained)
    assert not set(state) & set(trained.base_record.base_keys)
    assert all(type(value) is torch.Tensor for value in state.values())
    # `init_detector` drops `init_cfg`: the record brings the base.
    other = build(base if in_place else None, way)
    result = other.load_state_dict(state, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert same_trained(trained, other)
    stored, expected = quantized_weights(other), quantized_weights(trained)
    assert stored.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(stored[name].codes, weight.codes)
    assert other.base_record.sha256 == trained.base_record.sha256
    record = type(other.base_record).decode(state['base_record.info'])
    options = record['method'].get('quantize')
    assert (options is None) == (way == 'dense')
    if options:
        assert options['bits'] == WAYS[way]['bits']
        assert options['block_size'] == 64


@pytest.mark.parametrize(
    ('trained_over', 'loaded_over', 'in_place'),
    [
        ('nf4', 'dense', True),
        ('nf4', 'dense', False),
        ('int8', 'dense', True),
        ('nf4', 'int8', True),
        ('nf4', 'fp4', False),
        ('nf4', 'part', True),
        ('part', 'nf4', True),
        ('dense', 'nf4', True),
        ('dense', 'nf4', False),
    ],
)
def test_another_storage_is_refused_and_has_a_way_out(
    base, trained_over, loaded_over, in_place
):
    trained = build(base, trained_over)
    state = trained_state(trained)
    source = base if in_place else None
    model = build(source, loaded_over)
    before = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(ValueError, match='were trained over a base') as caught:
        model.load_state_dict(state, strict=False)
    said = str(caught.value)
    assert 'allow_other_quantization=True' in said
    if trained_over in ('nf4', 'int8'):
        assert f'in {WAYS[trained_over]["bits"]} bits' in said
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    allowed = build(source, loaded_over, **ALLOW)
    allowed.load_state_dict(state, strict=False)
    assert same_trained(trained, allowed)
    assert allowed.base_record.in_place
    own = build(base, loaded_over)
    for name in own.base_record.base_keys:
        expected = own.get_parameter(name)
        assert torch.equal(allowed.get_parameter(name), expected), name


@pytest.mark.parametrize(
    ('trained_over', 'loaded_over'),
    [('nf4', 'dense'), ('nf4', 'int8'), ('dense', 'nf4')],
)
def test_the_way_out_still_refuses_other_weights(
    base, tmp_path, trained_over, loaded_over
):
    state = trained_state(build(base, trained_over))
    other = write(tmp_path / 'other.pth', seed=1)
    model = build(other, loaded_over, **ALLOW)
    with pytest.raises(ValueError, match='was trained over the base'):
        model.load_state_dict(state, strict=False)


def test_a_changed_file_is_noticed_though_it_rounds_to_the_same(base):
    state = trained_state(build(base))
    content = torch.load(base['checkpoint'])
    weight = content['blocks.1.mlp.fc1.weight']
    largest = weight.abs().flatten()[:64].argmax()
    other = (largest + 1) % 64
    weight.view(-1)[other] += 1e-6
    torch.save(content, base['checkpoint'])
    with pytest.raises(ValueError, match='now holds other weights'):
        build(None).load_state_dict(state, strict=False)


def test_the_hash_is_of_the_weights_before_rounding(base):
    models = {way: build(base, way) for way in WAYS}
    hashes = {way: m.base_record.sha256 for way, m in models.items()}
    assert hashes['int8'] == hashes['nf4'] == hashes['fp4']
    assert len({hashes['dense'], hashes['nf4'], hashes['part']}) == 3
    dense = {
        key: models['dense'].get_parameter(key)
        for key in models['dense'].base_record.base_keys
    }
    digested = set(quantized_weights(models['nf4']))
    assert content_hash(dense, digested) == hashes['nf4']
    assert content_hash(dense) == hashes['dense']


@pytest.mark.parametrize('reader', ['nf4', 'dense'])
def test_a_base_without_source_is_saved_along(reader, tmp_path):
    torch.manual_seed(0)
    trained = build(None, allow_random_base=True)
    state = trained_state(trained)
    assert set(state) >= set(trained.base_record.base_keys)
    torch.save(state, tmp_path / 'whole.pth')
    state = torch.load(tmp_path / 'whole.pth', weights_only=True)
    torch.manual_seed(1)
    options = ALLOW if reader == 'dense' else {}
    other = build(None, reader, **options)
    other.load_state_dict(state)
    dequantize_base(trained)
    dequantize_base(other)
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_a_whole_checkpoint_takes_the_place_of_the_base(base, tmp_path):
    other = write(tmp_path / 'other.pth', seed=1)
    model = build(base)
    model.load_state_dict(torch.load(other['checkpoint']), strict=False)
    expected = build(other)
    for name, weight in quantized_weights(expected).items():
        assert torch.equal(model.get_parameter(name).codes, weight.codes)


def test_tasks_share_the_bits_of_one_base(base, tmp_path):
    shared = SharedBase()
    one, two = build(base), build(base)
    shared.adopt(one, one.base_record)
    shared.adopt(two, two.base_record)
    for name, weight in quantized_weights(one).items():
        assert two.get_parameter(name).shares_with(weight)
    assert shared.bytes() == sum(
        one.get_parameter(key).nbytes for key in one.base_record.base_keys
    )
    third = build(None)
    assert shared.lend(third, third.base_record, one.base_record.sha256)
    for name, weight in quantized_weights(one).items():
        assert third.get_parameter(name).shares_with(weight)
    images = torch.randn(1, 3, 56, 56)
    for first, other in zip(one(images), two(images), strict=True):
        assert first.shape == other.shape
    eighth = build(None, 'int8')
    assert not shared.lend(eighth, eighth.base_record, one.base_record.sha256)
    foreign = build(write(tmp_path / 'other.pth', seed=1))
    with pytest.raises(ValueError, match='differs from the resident one'):
        shared.adopt(foreign, foreign.base_record)
