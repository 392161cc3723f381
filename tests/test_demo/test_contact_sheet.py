import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.shapes import PALETTE, SEG_PALETTE, draw_contact_sheet, write_shapes

TOOL = Path(__file__).parents[2] / 'tools/make_shapes.py'
SMALL = dict(num_train=2, num_val=1, image_size=64)


def colors(path):
    image = cv2.imread(str(path))[..., ::-1]
    codes = np.unique(image.astype(np.int64) @ (1 << 16, 1 << 8, 1))
    return image, {tuple(int(code).to_bytes(3, 'big')) for code in codes}


def test_sheet_shows_every_class(roots, tmp_path):
    draw_contact_sheet(roots['coco'].parent, tmp_path / 'sheet.png')
    image, seen = colors(tmp_path / 'sheet.png')
    assert image.shape == (30 + 4 * (30 + 218), 10 + 6 * 218, 3)
    assert set(SEG_PALETTE) <= seen


def test_boxes_stand_where_the_file_says(tmp_path):
    roots = write_shapes(tmp_path, 'source', **SMALL, formats=['dota'])
    draw_contact_sheet(tmp_path / 'source', tmp_path / 'sheet.png', count=1)
    image, _ = colors(tmp_path / 'sheet.png')
    path = roots['dota'] / 'trainval/annfiles/P0001__64__0___0.txt'
    *corners, name, _ = path.read_text().splitlines()[0].split()
    assert name == 'circle'
    top_left, top_right = np.array(corners[:4], float).reshape(2, 2)
    x, y = (top_left + top_right) / 2 * 208 / 64 - 0.5 + (10, 60)
    assert tuple(image[round(y), round(x)]) == PALETTE[0]


def test_sheet_of_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no shapes data'):
        draw_contact_sheet(tmp_path, tmp_path / 'sheet.png')


@pytest.fixture
def run_tool(monkeypatch):
    spec = importlib.util.spec_from_file_location('make_shapes', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['make_shapes.py', *arguments])
        tool.main()

    return run


def test_tool_writes_counts_and_sheets(tmp_path, run_tool, capsys):
    run_tool(
        *('--out', str(tmp_path), '--num-train', '6', '--num-val', '2'),
        *('--image-size', '64', '--formats', 'coco', 'ade20k'),
    )
    out = capsys.readouterr().out
    assert 'scene 8 of 8' in out
    assert str(tmp_path / 'target/ade/ADEChallengeData2016') in out
    assert not (tmp_path / 'source/split_ss_dota').exists()
    for domain in ('source', 'target'):
        image, _ = colors(tmp_path / f'{domain}.png')
        assert image.shape[0] == 30 + 3 * (30 + 218)
    header, train, val = out.splitlines()[5:8]
    assert header.split()[1:] == [
        'circle', 'triangle', 'square', 'bar', 'star', 'cross',
    ]  # fmt: skip
    assert min(map(int, train.split()[1:])) >= 1
    assert val.split()[0] == 'val'


def test_tool_reports_bad_input_in_one_line(tmp_path, run_tool):
    with pytest.raises(SystemExit) as stop:
        run_tool('--out', str(tmp_path), '--image-size', '32')
    assert stop.value.code == (
        'Error: image_size of the shapes data is 32; give 64 or more.'
    )
