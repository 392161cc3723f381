import copy
import hashlib
import struct

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmflora.checkpoint import BaseRecord, base_records, content_hash


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        'stem.weight': torch.randn(4, 3, 2, 2, generator=generator),
        'stem.bias': torch.randn(4, generator=generator),
        'scale': torch.tensor(2.0),
        'empty': torch.ones(0, 3),
        'half': torch.randn(5, generator=generator).bfloat16(),
    }


def test_hash_is_the_documented_one():
    """Files of today must be known by the same hash tomorrow."""
    counted = {
        'a': torch.arange(6, dtype=torch.float32).reshape(2, 3),
        'b': torch.tensor([1.0, -1.0], dtype=torch.bfloat16),
    }
    text = b'a|torch.float32|(2, 3)|' + struct.pack('<6f', *range(6))
    text += b'b|torch.bfloat16|(2,)|' + bytes.fromhex('803f80bf')
    assert content_hash(counted) == hashlib.sha256(text).hexdigest()


SAME = {
    'order of names': lambda t: dict(reversed(t.items())),
    'memory format': lambda t: (
        t
        | {
            'stem.weight': t['stem.weight'].to(
                memory_format=torch.channels_last
            )
        }
    ),
    'strides': lambda t: (
        t | {'stem.weight': t['stem.weight'].mT.contiguous().mT}
    ),
    'part of a larger tensor': lambda t: (
        t | {'stem.bias': torch.cat([t['stem.bias'], torch.ones(3)])[:4]}
    ),
    'parameters': lambda t: {
        key: nn.Parameter(value) for key, value in t.items()
    },
    'copies': copy.deepcopy,
}


@pytest.mark.parametrize('change', SAME.values(), ids=SAME)
def test_hash_is_independent_of(change):
    assert content_hash(change(tensors())) == content_hash(tensors())


def flip(key, bit):
    def change(t):
        raw = t[key].clone().reshape(-1)
        raw.view(torch.uint8)[0] ^= bit
        return t | {key: raw.reshape(t[key].shape)}

    return change


OTHER = {
    'lowest bit': flip('stem.weight', 1),
    'lowest bit of bfloat16': flip('half', 1),
    'sign of zero': lambda t: t | {'scale': torch.tensor(-0.0)},
    'name': lambda t: {k.replace('stem', 'root'): v for k, v in t.items()},
    'shape': lambda t: t | {'stem.bias': t['stem.bias'].reshape(2, 2)},
    'type': lambda t: t | {'stem.bias': t['stem.bias'].double()},
    'one less': lambda t: {k: v for k, v in t.items() if k != 'stem.bias'},
    'one more': lambda t: t | {'x': torch.ones(1)},
    'swapped': lambda t: (
        t
        | {
            'stem.weight': t['stem.weight'].flip(0),
            'stem.bias': t['stem.bias'].flip(0),
        }
    ),
}


@pytest.mark.parametrize('change', OTHER.values(), ids=OTHER)
def test_hash_depends_on(change):
    before = tensors() | {'scale': torch.tensor(0.0)}
    assert content_hash(change(before)) != content_hash(before)


SOURCE = dict(type='Pretrained', checkpoint='weights/base.pth')
METHOD = dict(adapter=dict(type='FLoRA', rank=4), targets='.*', exclude=[])


def record(**options):
    return BaseRecord(['stem.weight'], ['norm.weight'], METHOD, **options)


def test_fresh_record_knows_no_base():
    fresh = record()
    assert fresh.source is fresh.sha256 is fresh.origin is None
    assert not fresh.in_place


def test_record_keeps_what_it_is_told():
    kept = record()
    kept.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    assert kept.source == SOURCE
    assert kept.sha256 == 'ab' * 32
    assert kept.origin == 'init_cfg'
    assert kept.in_place
    kept.set_base(None, None, None)
    assert kept.source is None
    assert not kept.in_place


def test_record_travels_as_one_buffer():
    sent = record()
    sent.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    state = sent.state_dict()
    assert list(state) == ['info']
    assert BaseRecord.decode(state['info']) == dict(
        source=SOURCE, sha256='ab' * 32, origin='init_cfg', method=METHOD
    )


def test_buffers_have_one_size_whatever_they_say():
    """Averaged models and other ranks copy buffers by shape."""
    fresh, told = record(), record()
    told.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    assert fresh.info.shape == told.info.shape
    fresh.info.copy_(told.info)
    assert fresh.source == SOURCE


def test_umlauts_in_a_path():
    kept = record()
    kept.set_base(dict(SOURCE, checkpoint='/é/数据.pth'), None, None)
    assert kept.source['checkpoint'] == '/é/数据.pth'


LONG = dict(METHOD, targets={f'{"x" * 90}{i}': {} for i in range(180)})


def test_a_record_has_room_for_its_method():
    kept = BaseRecord([], [], LONG)
    longest = dict(SOURCE, checkpoint='/' + '数' * 1365)  # of 4096 bytes
    kept.set_base(longest, 'ab' * 32, 'load_from')
    assert kept.source == longest
    assert BaseRecord.decode(kept.info)['method'] == LONG
    assert record().info.shape == (8192,), 'as files of before have it'
    with pytest.raises(ValueError, match='shorter path'):
        kept.set_base(dict(SOURCE, checkpoint='x' * 50_000), None, None)


LOADERS = {
    'torch': lambda model, state: model.load_state_dict(state, strict=True),
    'torch, assigned': lambda model, state: model.load_state_dict(
        state, strict=True, assign=True
    ),
    'mmengine': lambda model, state: load_state_dict(
        model, state, strict=True
    ),
}


@pytest.mark.parametrize('load', LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize('sizes', [(8192, 65536), (65536, 8192), (100, 8192)])
def test_records_of_other_sizes_are_loaded(load, sizes):
    """A spelling of the same method may be longer, in an old file too."""
    theirs, ours = (torch.zeros(size, dtype=torch.uint8) for size in sizes)
    model = nn.ModuleDict(dict(base_record=record()))
    model['base_record'].info = ours
    load(model, {'base_record.info': theirs})
    assert model['base_record'].info.shape == ours.shape


DAMAGED = {
    'zeros': torch.zeros(64, dtype=torch.uint8),
    'noise': torch.full((64,), 0xC3, dtype=torch.uint8),
    'no dict': torch.tensor(list(b'[1, 2]'), dtype=torch.uint8),
    'keys missing': torch.tensor(list(b'{"source": 1}'), dtype=torch.uint8),
    'no file': torch.tensor(
        list(
            b'{"source":{"checkpoint":1},"sha256":"","origin":"","method":{}}'
        ),
        dtype=torch.uint8,
    ),
    'cut off': torch.tensor(list(b'{"source": nu'), dtype=torch.uint8),
    'empty': torch.zeros(0, dtype=torch.uint8),
}


@pytest.mark.parametrize('info', DAMAGED.values(), ids=DAMAGED)
def test_damaged_record(info):
    with pytest.raises(ValueError, match='is damaged'):
        BaseRecord.decode(info)


def test_copies_of_a_record(copy_of):
    first = record()
    first.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    second = copy_of(first)
    assert second.source == SOURCE
    second.set_base(None, None, None)
    assert first.source == SOURCE


def test_record_keeps_its_contents_when_built_on_the_meta_device():
    with torch.device('meta'):
        kept = record()
    kept.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    assert kept.source == SOURCE


def test_record_moved_to_the_meta_device_knows_nothing():
    moved = record().to('meta')
    moved.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    assert moved.source is None


def test_records_are_found_by_the_name_of_their_backbone():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2), neck=nn.Linear(2, 2)))
    model['backbone'].add_module('base_record', record())
    found = base_records(model)
    assert list(found) == ['backbone']
    assert found['backbone'] == (
        model['backbone'],
        model['backbone'].base_record,
    )
    assert base_records(nn.Linear(2, 2)) == {}


def test_record_has_no_parameters_and_prints_its_source():
    kept = record()
    kept.set_base(SOURCE, 'ab' * 32, 'init_cfg')
    assert list(kept.parameters()) == []
    assert 'weights/base.pth' in repr(kept)
