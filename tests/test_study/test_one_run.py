"""One run: what it goes on from, and what it notes of its start."""

import json
from types import SimpleNamespace

import pytest
import torch

from mmflora.study.one_run import can_resume, newest_checkpoint
from mmflora.study.run_measures import MeasuresHook


def test_only_whole_checkpoints_count(tmp_path):
    folder = tmp_path / 'training'
    folder.mkdir()
    # What a kill leaves while the first checkpoint is written.
    (folder / '.iter_80.partial.pth').write_bytes(b'PK')
    assert newest_checkpoint(tmp_path) is None
    (folder / 'iter_160.pth').write_bytes(b'PK')
    assert newest_checkpoint(tmp_path) is None
    torch.save(dict(state_dict={}), folder / 'iter_80.pth')
    assert newest_checkpoint(tmp_path) == str(folder / 'iter_80.pth')


def test_a_removed_checkpoint_is_none(tmp_path):
    folder = tmp_path / 'training'
    folder.mkdir()
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_80.pth'))
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(('steps', 'needed'), [(2, 2), (3, 3), (9, 3)])
def test_the_start_is_noted_as_a_whole(tmp_path, steps, needed):
    """Else a kill would leave a hash of fewer batches."""
    model = torch.nn.Linear(2, 2)
    hook = MeasuresHook(tmp_path, dict(model.named_parameters()))
    runner = SimpleNamespace(model=model, iter=0, max_iters=steps)
    hook.before_train(runner)
    for runner.iter in range(steps):
        hook.before_train_iter(runner, 0, [torch.tensor(runner.iter)])
        noted = (tmp_path / 'start.json').is_file()
        assert noted == (runner.iter + 1 >= needed)
    assert json.loads((tmp_path / 'start.json').read_text())['first_batches']


@pytest.mark.parametrize('noted', [False, True])
def test_a_training_without_its_start_begins_again(tmp_path, noted):
    folder = tmp_path / 'training'
    folder.mkdir()
    torch.save(dict(state_dict={}), folder / 'iter_1.pth')
    if noted:
        (tmp_path / 'start.json').write_text('{}')
    assert can_resume(tmp_path) == noted
