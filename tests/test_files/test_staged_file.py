"""Files that are there in full or not at all."""

import pytest

from mmflora.files.atomic import staged_file, write_figure


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


class Drawn:
    """Stands in for a figure."""

    def savefig(self, path, dpi):
        path.write_text(f'{dpi} dots')
        if dpi > 150:
            raise OSError('the disk is full')


def test_figures_are_there_in_full_or_not_at_all(tmp_path):
    target = tmp_path / 'new' / 'curve.png'
    write_figure(target, Drawn(), dpi=150)
    with pytest.raises(OSError, match='full'):
        write_figure(target, Drawn(), dpi=300)
    assert target.read_text() == '150 dots'
    assert list(target.parent.iterdir()) == [target]
