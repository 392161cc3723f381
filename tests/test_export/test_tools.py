"""The command lines of merge.py and export_graph.py."""

import runpy

import pytest
import torch

from .conftest import BASE_KEY, ROOT, SIZE


def line(trained, out, *options):
    return [
        str(trained.config),
        str(trained.checkpoint),
        '--out',
        str(out),
        *map(str, options),
        '--cfg-options',
        f'{BASE_KEY}={trained.base}',
    ]


def run(name, monkeypatch, words):
    tool = str(ROOT / 'tools' / f'{name}.py')
    monkeypatch.setattr('sys.argv', [tool, *words])
    runpy.run_path(tool, run_name='__main__')


def test_merge_says_what_it_did(segmentor, tmp_path, monkeypatch, capsys):
    words = line(
        segmentor,
        tmp_path / 'merged.pth',
        *('--out-config', tmp_path / 'plain.py', '--dtype', 'float16'),
        *('--size', *SIZE),
    )
    run('merge', monkeypatch, words)
    printed = capsys.readouterr().out
    assert 'largest difference of 1 outputs: absolute' in printed
    for name in ('merged.pth', 'plain.py', 'merged_backbone.py'):
        assert (tmp_path / name).is_file()
        assert f'{tmp_path / name}  ' in printed
    state = torch.load(tmp_path / 'merged.pth', weights_only=True)
    dtype = state['state_dict']['backbone.stem.0.weight'].dtype
    assert dtype == torch.float16

    graph = tmp_path / 'graph.pt2'
    plain = [tmp_path / 'plain.py', tmp_path / 'merged.pth', '--out', graph]
    run('export_graph', monkeypatch, list(map(str, plain)))
    assert 'largest difference of 1 outputs' in capsys.readouterr().out
    assert graph.is_file()


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (('--layout', 'timm'), '--backbone-only'),
        (('--bound', '1e-12', '--size', *SIZE), 'not kept'),
        (('--out-config', 'plain.json'), '--out-config.*plain.json'),
    ],
)
def test_merge_refuses(segmentor, tmp_path, monkeypatch, options, text):
    words = line(segmentor, tmp_path / 'merged.pth', *options)
    with pytest.raises(SystemExit, match=f'error: .*{text}'):
        run('merge', monkeypatch, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('tool', ['merge', 'export_graph'])
def test_missing_files(segmentor, tmp_path, monkeypatch, tool):
    words = line(segmentor, tmp_path / 'out.pth')
    for index, what in ((0, 'Config not found'), (1, 'Weights not found')):
        wrong = list(words)
        wrong[index] = 'nowhere.py'
        with pytest.raises(SystemExit, match=f'error: {what}'):
            run(tool, monkeypatch, wrong)
    assert list(tmp_path.iterdir()) == []


def test_merge_wants_a_checkpoint_file(segmentor, tmp_path, monkeypatch):
    words = line(segmentor, tmp_path / 'merged.onnx')
    with pytest.raises(SystemExit, match=r'give a \.pth file'):
        run('merge', monkeypatch, words)
