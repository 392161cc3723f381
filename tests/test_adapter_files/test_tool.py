"""tools/adapters.py: list, show, diff, export, import."""

import json
from pathlib import Path

import pytest
import torch
from test_tools.conftest import load_tool

from .conftest import tensors_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def tool():
    return load_tool('adapters')


@pytest.fixture
def run_tool(tool, capsys):
    def run(*words):
        tool.main([str(word) for word in words])
        return capsys.readouterr().out

    return run


def test_from_checkpoint_to_checkpoint(run_tool, checkpoint, tmp_path):
    folder, back = tmp_path / 'runs/adapter', tmp_path / 'back.pth'
    printed = run_tool(
        'export', checkpoint, folder, '--metrics', 'mIoU=51.5', 'a=b=2'
    )
    assert 'MB of adapter' in printed
    config = json.loads((folder / 'adapter_config.json').read_text())
    assert config['metrics'] == {'mIoU': 51.5, 'a=b': 2.0}
    printed = run_tool('show', folder, '--layers')
    assert "'type': 'FLoRA'" in printed
    assert 'backbone.stem.0: core (4, 3, 2, 2)' in printed
    assert 'adapters   64 tensors' in printed
    run_tool('import', folder, back, '--base', 'elsewhere.pth')
    ours = torch.load(back, weights_only=True)
    theirs = torch.load(checkpoint, weights_only=True)['state_dict']
    for key, value in theirs.items():
        if not key.endswith('base_record.info'):
            assert torch.equal(ours['state_dict'][key], value)
    base = ours['meta']['mmflora']['backbones']['backbone']['base']
    assert base['checkpoint'] == 'elsewhere.pth'


def test_list_names_all_and_what_is_damaged(run_tool, checkpoint, tmp_path):
    assert run_tool('list', tmp_path) == 'No adapters found.\n'
    run_tool('export', checkpoint, tmp_path / 'a/one')
    run_tool('export', checkpoint, tmp_path / 'two.safetensors')
    file, _, _ = tensors_of(tmp_path / 'two.safetensors')
    (tmp_path / 'bad.safetensors').write_bytes(file.read_bytes()[:-9])
    lines = run_tool('list', tmp_path).splitlines()
    assert len(lines) == 3
    assert 'a/one: FLoRA, mmengine' in lines[0]
    assert 'not readable' in lines[1]
    assert 'two.safetensors: FLoRA' in lines[2]


def test_diff_prints_and_draws(run_tool, checkpoint, tmp_path):
    run_tool('export', checkpoint, tmp_path / 'one')
    picture = tmp_path / 'diff.png'
    words = ('diff', tmp_path / 'one', tmp_path / 'one', '--out', picture)
    printed = run_tool(*words)
    assert 'backbone.stem.0' in printed
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('show', 'none'), 'Adapter not found'),
        (('show', 'none', '--plot', 'p'), "No 'update_statistics.csv' is at"),
        (('show', '{0}', '--plot', 'p'), '--config'),
        (('show', '{0}', '--plot', 'p', '--intruders', '9'), 'needs --config'),
        (('list', 'none'), "Nothing is at 'none'"),
        (('export', 'none.pth', 'out'), 'Weights not found'),
        (('export', '{0}', 'out.bin'), "not written as '.bin'"),
        (('export', '{0}', 'out', '--metrics', 'high'), 'give NAME=NUMBER'),
    ],
)
def test_errors_are_one_line(tool, checkpoint, words, message):
    with pytest.raises(SystemExit) as caught:
        tool.main([word.format(checkpoint) for word in words])
    assert str(caught.value).startswith('error: ')
    assert message in str(caught.value)


def test_unknown_options_are_refused(tool):
    with pytest.raises(SystemExit):
        tool.main(['list', '--deep'])


def test_merge_is_handed_over(tool, monkeypatch):
    seen = {}

    def record(path, run_name):
        seen.update(path=path, run_name=run_name)

    monkeypatch.setattr(tool.runpy, 'run_path', record)
    monkeypatch.setattr(tool.sys, 'argv', ['adapters.py'])
    tool.main(['merge', 'config.py', 'a.pth', '--out', 'merged.pth'])
    assert Path(seen['path']) == ROOT / 'tools/merge.py'
    words = ['config.py', 'a.pth', '--out', 'merged.pth']
    assert tool.sys.argv[1:] == words
