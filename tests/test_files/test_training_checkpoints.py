"""Where ``--resume`` goes on, whatever became of ``last_checkpoint``."""

import os

import pytest
import torch
from mmengine import runner as mmengine_runner

from mmflora.files import training_checkpoints
from mmflora.files.stored_tensors import FOLDER_CHECKPOINT
from mmflora.files.training_checkpoints import (
    LAST,
    find_newest,
    load_checkpoint,
)


@pytest.fixture
def folder(tmp_path):
    """Hold three checkpoints, each a second younger, and their pointer."""
    for step in (1, 2, 3):
        path = tmp_path / f'epoch_{step}.pth'
        torch.save(dict(meta={}, state_dict=dict(a=torch.ones(9))), path)
        os.utime(path, (step, step))
    torch.save(dict(meta={}, state_dict={}), tmp_path / 'best_a_epoch_9.pth')
    (tmp_path / LAST).write_text(str(tmp_path / 'epoch_3.pth'))
    return tmp_path


@pytest.fixture(autouse=True)
def said(monkeypatch):
    said = []
    monkeypatch.setattr(
        training_checkpoints, 'print_log', lambda text, **_: said.append(text)
    )
    return said


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b'\x80\x3f')] ^= 4
    path.write_bytes(content)


DAMAGE = {
    'nothing': (lambda f: None, 3, 0),
    'empty': (lambda f: (f / LAST).write_text(''), 3, 1),
    'missing': (lambda f: (f / LAST).unlink(), 3, 1),
    'zeros': (lambda f: (f / LAST).write_bytes(b'\0' * 20), 3, 1),
    'no text': (lambda f: (f / LAST).write_bytes(b'\xff\xfe\n'), 3, 1),
    'gone': (lambda f: (f / 'epoch_3.pth').unlink(), 2, 1),
    'cut': (lambda f: cut(f / 'epoch_3.pth'), 2, 1),
    'flipped': (lambda f: flip(f / 'epoch_3.pth'), 2, 1),
    'moved': (lambda f: (f / LAST).write_text('/old/run/epoch_3.pth'), 3, 0),
    'earlier': (lambda f: (f / LAST).write_text(f'{f}/epoch_2.pth'), 2, 0),
}


@pytest.mark.parametrize(
    ('damage', 'step', 'warnings'), DAMAGE.values(), ids=DAMAGE
)
def test_the_newest_whole_checkpoint(folder, said, damage, step, warnings):
    damage(folder)
    found = mmengine_runner.find_latest_checkpoint(str(folder))
    assert found == str(folder / f'epoch_{step}.pth')
    assert len(said) == warnings
    assert all(f'epoch_{step}.pth' in text for text in said)


def test_a_kill_before_the_pointer_was_written(folder, said):
    pointer = folder / LAST
    pointer.write_text(str(folder / 'epoch_2.pth'))
    os.utime(pointer, (2.5, 2.5))
    assert find_newest(folder) == str(folder / 'epoch_3.pth')
    assert len(said) == 1


def test_older_files_of_another_run_do_not_count(folder, said):
    pointer = folder / LAST
    pointer.write_text(str(folder / 'epoch_1.pth'))
    for step in (2, 3):
        os.utime(folder / f'epoch_{step}.pth', (0, 0))
    os.utime(pointer, (1.5, 1.5))
    assert find_newest(folder) == str(folder / 'epoch_1.pth')
    assert not said


def test_nothing_to_go_on_from(tmp_path, said):
    assert find_newest(tmp_path) is None
    assert 'starts at the beginning' in said[0]
    (tmp_path / LAST).write_text('epoch_3.pth')
    with pytest.raises(ValueError, match='names none that is there'):
        find_newest(tmp_path)
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK')
    with pytest.raises(ValueError, match=r'epoch_1\.pth'):
        find_newest(tmp_path)


def test_an_object_store_is_left_to_mmengine(tmp_path):
    (tmp_path / LAST).write_text('s3://bucket/epoch_3.pth')
    assert find_newest(tmp_path) == 's3://bucket/epoch_3.pth'


def test_the_checkpoint_in_a_folder_of_deepspeed(tmp_path):
    """Exports and merges read it; a strategy writes it."""
    from mmflora.export.trained_model import read_checkpoint

    for name in ('mp_rank_00_model_states.pt', 'optim_states.pt'):
        torch.save(dict(module=dict(a=torch.ones(9))), tmp_path / name)
    state = dict(b=torch.ones(9))
    torch.save(dict(meta={}, state_dict=state), tmp_path / FOLDER_CHECKPOINT)
    for read in (load_checkpoint, read_checkpoint):
        assert list(read(str(tmp_path))['state_dict']) == ['b']
