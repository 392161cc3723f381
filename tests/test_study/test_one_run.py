"""One run: what it goes on from."""

import torch

from mmflora.study.one_run import newest_checkpoint


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
