"""Files that are there in full or not at all."""

import pytest

from mmflora.files.atomic import staged_file


def test_success(tmp_path):
    target = tmp_path / 'new' / 'file.pth'
    with staged_file(target) as partial:
        assert partial.suffix == '.pth'
        assert not target.exists()
        partial.write_text('content')
    assert target.read_text() == 'content'
    assert list(target.parent.iterdir()) == [target]


def fill_the_disk(target):
    with staged_file(target) as partial:
        partial.write_text('half')
        raise OSError('the disk is full')


def test_error_leaves_the_old_file(tmp_path):
    target = tmp_path / 'file.pth'
    target.write_text('old')
    with pytest.raises(OSError, match='full'):
        fill_the_disk(target)
    assert target.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [target]
