"""Checkpoints of training are readable with weights_only=True."""

import copy
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmflora.files.plain_types import make_plain, restore_histories
from tests.test_engine.toy import backbone_cfg, runner, write_base


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / 'base.pth')


def history(values):
    buffer = HistoryBuffer(max_length=7)
    for value in values:
        buffer.update(value, 2)
    return buffer


@pytest.mark.parametrize('ema', [False, True], ids=['plain', 'averaged'])
def test_plain_torch_load_reads_what_training_wrote(tmp_path, base, ema):
    hooks = dict(custom_hooks=[dict(type='EMAHook')]) if ema else {}
    built = runner(tmp_path / 'run', backbone_cfg(base), epochs=1, **hooks)
    built.train()
    path = tmp_path / 'run/epoch_1.pth'
    read = torch.load(path, weights_only=True)
    for key, value in built.model.state_dict().items():
        if key in read['state_dict'] and not ema:
            assert torch.equal(read['state_dict'][key], value)
    assert ('ema_state_dict' in read) == ema
    assert read['meta']['mmflora']['toolkit'] == 'mmengine'
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []


def test_types_become_plain_and_histories_come_back(tmp_path):
    checkpoint = dict(
        meta=dict(
            number=np.float64(0.5),
            palette=np.array([[1, 2]]),
            nested=ConfigDict(a=[np.int64(3)], b=(1, 2), c={4}),
            path=Path('a/b'),
        ),
        message_hub=dict(log_scalars=dict(loss=history([1.5, 2.5]))),
    )
    make_plain(checkpoint)
    torch.save(checkpoint, tmp_path / 'file.pth')
    read = torch.load(tmp_path / 'file.pth', weights_only=True)
    assert read['meta'] == dict(
        number=0.5,
        palette=[[1, 2]],
        nested=dict(a=[3], b=(1, 2), c={4}),
        path='a/b',
    )
    restore_histories(read)
    buffer = read['message_hub']['log_scalars']['loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.max_length == 7
    assert buffer.data[0].tolist() == [1.5, 2.5]
    assert buffer.data[1].tolist() == [2, 2]
    buffer.update(3.5)
    assert buffer.current() == 3.5


def test_unplain_objects_stay_and_are_named(monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmflora.files.plain_types.print_log',
        lambda text, **_: logged.append(text),
    )
    thing = logging.Formatter()
    checkpoint = dict(state_dict=dict(a=thing), meta=dict(b=[thing]))
    make_plain(checkpoint)
    assert checkpoint['meta']['b'] == [thing]
    (text,) = logged
    assert "'meta.b.0' (Formatter)" in text


def test_older_checkpoints_are_left_as_they_are():
    for message_hub in (
        dict(log_scalars=dict(loss=history([1.0])), runtime_info={}),
        None,
    ):
        checkpoint = dict(message_hub=message_hub)
        before = pickle.dumps(checkpoint)
        restored = copy.deepcopy(checkpoint)
        restore_histories(restored)
        assert pickle.dumps(restored) == before
