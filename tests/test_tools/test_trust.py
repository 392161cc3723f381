"""Checkpoints of strangers at the tools' door."""

import sys

import pytest
import torch
from test_adapter_files.test_refusals import Malicious

from mmflora.checkpoint import trusted_checkpoints
from mmflora.files.trust import OPTION

from .conftest import CONFIGS, ROOT, load_tool, refused

UPERNET = CONFIGS / 'flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
BASE = 'work_dirs/shapes_base/base.pth'


@pytest.fixture
def evil(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'evil.pth'
    state = {'a': torch.ones(1)}
    torch.save(dict(meta=Malicious(tmp_path / 'ran'), state_dict=state), path)
    yield path
    assert not (tmp_path / 'ran').exists()


def test_a_test_is_refused_before_anything_is_built(test_tool, evil):
    args = test_tool.parse_args([str(UPERNET), str(evil)])
    assert not args.trust_checkpoints
    with pytest.raises(ValueError, match='could run code .*mkdir'):
        test_tool.prepare(args)
    with pytest.raises(SystemExit, match='error: checkpoint: .*refused'):
        test_tool.run(args)


@pytest.mark.parametrize(
    'options',
    [
        ('--resume', '{}'),
        ('--cfg-options', 'load_from={}'),
        ('--cfg-options', 'model.backbone.init_cfg.checkpoint={}'),
    ],
    ids=['resume', 'load_from', 'base'],
)
def test_so_is_a_training(train_tool, evil, options):
    words = [str(UPERNET), *(word.format(evil) for word in options)]
    with pytest.raises(ValueError, match='could run code'):
        train_tool.prepare(train_tool.parse_args(words))


def test_who_trusts_says_so(test_tool, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv('LOCAL_RANK', '0')
    path, marker = tmp_path / 'trusted.pth', tmp_path / 'ran'
    torch.save(dict(meta=Malicious(marker), state_dict={}), path)
    words = [str(UPERNET), str(path), '--trust-checkpoints']
    args = test_tool.parse_args(words)
    with trusted_checkpoints(args.trust_checkpoints):
        assert test_tool.prepare(args).load_from == str(path)
    assert marker.exists()


# The start of a command line of each tool that reads checkpoints.
DOORS = {
    'adapters': 'export {} out',
    'count_params': f'{UPERNET} --peft flora-r16 --base {{}}',
    'estimate_memory': f'{UPERNET} --peft flora-r16 --base {{}}',
    'export_graph': f'{UPERNET} {{}} --out graph.onnx',
    'merge': f'{UPERNET} {{}} --out merged.pth',
    'new_config': '--data data --out new.py --base {}',
    'rank_curve': f'{UPERNET} {{}} --ranks 1',
    'search_adapters': f'{UPERNET} {{}} --budget 1k --out found',
    'test': f'{UPERNET} {{}}',
    'train': f'{UPERNET} --resume {{}}',
}


@pytest.mark.parametrize('name', DOORS)
def test_every_tool_has_the_option(name, monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path, str(ROOT / 'tools')])
    tool = load_tool(name)
    words = DOORS[name].format('x.pth').split()
    assert not tool.parse_args(words).trust_checkpoints
    assert tool.parse_args([*words, OPTION]).trust_checkpoints


@pytest.mark.parametrize('name', ['adapters', 'merge', 'export_graph'])
def test_the_option_counts(name, run_main, workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path, str(ROOT / 'tools')])
    monkeypatch.chdir(workspace.folder)
    path, marker = tmp_path / 'odd.pth', tmp_path / 'ran'
    torch.save(dict(meta=Malicious(marker), state_dict={}), path)
    tool, words = load_tool(name), DOORS[name].format(path).split()
    assert OPTION in refused(run_main, tool, *words)
    assert not marker.exists()
    # Read, and refused for what it lacks.
    assert OPTION not in refused(run_main, tool, *words, OPTION)
    assert marker.exists()


def test_an_adapter_is_tested_but_not_resumed(
    test_tool, train_tool, workspace, tmp_path, monkeypatch
):
    from mmflora.adapter_files import write_adapter
    from mmflora.adapter_files.convert import from_state
    from mmflora.checkpoint.record import BaseRecord

    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv('LOCAL_RANK', '0')
    record = BaseRecord((), (), dict(adapter=None, targets='.*', exclude=()))
    state = {'backbone.base_record.info': record.info, 'a': torch.ones(1)}
    adapter = from_state(state, {}, {})
    for name in ('adapter', 'adapter.safetensors'):
        path = write_adapter(adapter, tmp_path / name)
        args = test_tool.parse_args([str(UPERNET), str(path)])
        assert test_tool.prepare(args).load_from == str(path)
        words = [str(UPERNET), '--resume', str(path)]
        with pytest.raises(ValueError, match='neither optimizer nor schedule'):
            train_tool.prepare(train_tool.parse_args(words))
