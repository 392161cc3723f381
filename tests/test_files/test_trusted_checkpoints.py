"""What is read of a checkpoint, and what never is."""

import argparse
import pathlib
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmflora.checkpoint import read_state_dict, trusted_checkpoints
from mmflora.files.pickles import read_safely
from mmflora.files.stored_tensors import open_weights

VALUES = {
    'float64': np.float64(0.5),
    'float32': np.float32(0.25),
    'float16': np.float16(2),
    'int64': np.int64(-7),
    'uint8': np.uint8(200),
    'bool': np.bool_(True),
    'text': np.str_('ab'),
    'floats': np.arange(6.0).reshape(2, 3),
    'integers': np.arange(4, dtype=np.int32)[::2],
    'texts': np.array(['ab', 'c']),
    'bytes': np.array([b'ab']),
}


def stock_checkpoint(**more):
    """Return what MMEngine's own hook writes, and MMCV's once did."""
    return dict(
        meta=dict(
            VALUES, seed=0, CLASSES=('a', 'b'), cfg='a = 1', hook_msgs={}
        ),
        message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([2.0, 1.0], [1, 1])),
            runtime_info=dict(best=np.float64(0.5)),
            resumed_keys={},
        ),
        args=argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=(1, 2))),
        state_dict=dict(weight=torch.arange(3.0)),
        param_schedulers=[dict(base_values=[0.1], part=slice(1, 2))],
        **more,
    )


@pytest.mark.parametrize('new_format', [True, False])
@pytest.mark.parametrize('mmap', [False, True])
def test_stock_checkpoints_are_read(tmp_path, new_format, mmap):
    path = tmp_path / 'epoch_1.pth'
    torch.save(
        stock_checkpoint(), path, _use_new_zipfile_serialization=new_format
    )
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    read_safely(path, 'meta')
    read = read_safely(path, 'cpu', mmap=mmap)
    for name, value in VALUES.items():
        found = read['meta'][name]
        assert type(found) is type(value), name
        np.testing.assert_array_equal(found, value)
    loss = read['message_hub']['log_scalars']['loss']
    assert loss.current() == 1.0
    assert loss.min() == 1.0
    assert read['args'].nested.a == (1, 2)
    assert torch.equal(read['state_dict']['weight'], torch.arange(3.0))
    state = read_state_dict(str(path))
    assert torch.equal(state['weight'], torch.arange(3.0))


def test_stock_checkpoints_are_opened_as_tables(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(stock_checkpoint(), path)
    (stored,) = open_weights(str(path)).values()
    assert torch.equal(stored.read(), torch.arange(3.0))


def test_files_of_numpy_1_are_read(tmp_path):
    """Its modules had another name, which every published file holds."""
    path = tmp_path / 'old.pth'
    torch.save(stock_checkpoint(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    new, old = b'numpy._core.multiarray', b'numpy.core.multiarray'
    assert content.count(new) >= 2
    path.write_bytes(content.replace(new, old))
    assert read_safely(path)['meta']['float64'] == 0.5
    np.testing.assert_array_equal(
        read_safely(path)['meta']['floats'], VALUES['floats']
    )


class Runs:
    """Something whose reading calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MARK = 'it_ran'
ATTACKS = {
    'open': lambda folder: Runs(open, str(folder / MARK), 'w'),
    'mkdir': lambda folder: Runs(pathlib.Path.mkdir, folder / MARK),
    'eval': lambda folder: Runs(
        eval, f'open({str(folder / MARK)!r}, "w").close()'
    ),
    'getattr': lambda folder: Runs(getattr, torch.nn.Module, '__init__'),
    'no statistic': lambda folder: Runs(getattr, HistoryBuffer, '__init__'),
    'no buffer': lambda folder: Runs(getattr, torch.Tensor, 'min'),
    'a method of arrays': lambda folder: Runs(getattr, np.ndarray, 'tofile'),
    'object scalar': lambda folder: Runs(
        np._core.multiarray.scalar, np.dtype('O'), b'12345678'
    ),
    'record scalar': lambda folder: Runs(
        np._core.multiarray.scalar, np.dtype([('a', 'O')]), b'12345678'
    ),
    'short scalar': lambda folder: Runs(
        np._core.multiarray.scalar, np.dtype('f8'), b'1234'
    ),
}


@pytest.mark.parametrize('new_format', [True, False])
@pytest.mark.parametrize('attack', ATTACKS.values(), ids=ATTACKS)
def test_nothing_of_a_file_runs(tmp_path, attack, new_format):
    path = tmp_path / 'evil.pth'
    torch.save(
        stock_checkpoint(evil=attack(tmp_path)),
        path,
        _use_new_zipfile_serialization=new_format,
    )
    for read in (read_safely, lambda p: read_state_dict(str(p))):
        with pytest.raises(ValueError, match='evil'):
            read(path)
    assert not (tmp_path / MARK).exists()


def test_the_refusal_names_what_and_the_way_out(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save(dict(a=ATTACKS['mkdir'](tmp_path)), path)
    with pytest.raises(ValueError, match='pathlib') as caught:
        read_safely(path)
    text = str(caught.value)
    assert 'which is refused' in text
    assert '--trust-checkpoints' in text
    assert '\x1b' not in text


def test_trust_is_for_its_block_alone(tmp_path):
    path = tmp_path / 'trusted.pth'
    torch.save(dict(a=pathlib.PurePosixPath('b')), path)
    with pytest.raises(ValueError, match='could run code'):
        read_safely(path)
    with trusted_checkpoints(), trusted_checkpoints(False):
        assert read_safely(path) == dict(a=pathlib.PurePosixPath('b'))
    with (
        trusted_checkpoints(False),
        pytest.raises(ValueError, match='refused'),
    ):
        read_safely(path)
