"""tools/adapters.py extract and import --from, on a small real config."""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmflora.adapter_files import read_adapter
from mmflora.adapter_files.apply import build_and_check
from mmflora.adapters import adapted_layers, merge
from mmflora.config.build import register_toolkit
from mmflora.models import ConvNeXt

from .test_authors import in_their_keys

ROOT = Path(__file__).parents[2]
NAME = 'upernet_convnextv2-atto_flora-r16_shapes-128x128.py'


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools/adapters.py'
    spec = importlib.util.spec_from_file_location('adapters_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def tuned(tmp_path_factory):
    """A base and a fine-tuning of it whose update has rank 4."""
    folder = tmp_path_factory.mktemp('tuned')
    torch.manual_seed(0)
    net = ConvNeXt('convnextv2_atto').state_dict()
    base = folder / 'base.pth'
    torch.save({f'backbone.{key}': net[key] for key in net}, base)
    config = Config.fromfile(ROOT / 'configs/flora' / NAME)
    config.model.backbone.init_cfg.checkpoint = str(base)
    config.model.backbone.adapter = dict(type='FLoRA', rank=4)
    config.dump(folder / 'config.py')
    register_toolkit(config)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.adapter.core, std=0.05)
    torch.save(in_their_keys(model.backbone, True, ''), folder / 'authors.pth')
    merge(model)
    state = {k: v for k, v in model.state_dict().items() if 'record' not in k}
    torch.save(dict(state_dict=state, meta={}), folder / 'tuned.pth')
    return folder, state


def run(tool, capsys, *words):
    tool.main([str(word) for word in words])
    return capsys.readouterr().out


@pytest.mark.parametrize('size', [('--rank', 4), ('--budget', 60_000)])
def test_extract(tool, tuned, tmp_path, capsys, size):
    folder, state = tuned
    out, picture = tmp_path / 'extracted', tmp_path / 'spectrum.png'
    printed = run(
        tool,
        capsys,
        'extract',
        *(folder / 'base.pth', folder / 'tuned.pth', out),
        *('--config', folder / 'config.py', '--spectrum', picture, *size),
    )
    assert picture.is_file()
    total = [line for line in printed.splitlines() if line.startswith('all,')]
    assert len(total) == 1
    adapter = read_adapter(out)
    assert adapter.config['toolkit'] == 'mmseg'
    config = Config.fromfile(folder / 'config.py')
    if size[0] == '--budget':
        rank = adapter.backbone()['method']['adapter']['rank']
        keys = adapter.groups()['adapters']
        count = sum(adapter.tensors[key].numel() for key in keys)
        assert count <= size[1]
        config.model.backbone.adapter.rank = rank
        build_and_check(config, adapter)
        return
    assert '100.0%' in total[0]
    model = build_and_check(config, adapter)
    merge(model)
    for key, value in state.items():
        torch.testing.assert_close(
            model.state_dict()[key], value, rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_import_from_the_authors(tool, tuned, tmp_path, capsys):
    folder, state = tuned
    out = tmp_path / 'start.pth'
    printed = run(
        tool,
        capsys,
        *('import', folder / 'authors.pth', out, '--from', 'authors'),
        *('--config', folder / 'config.py'),
    )
    assert 'neck and heads are new' in printed
    model = MODELS.build(Config.fromfile(folder / 'config.py').model)
    loaded = torch.load(out, weights_only=True)['state_dict']
    model.load_state_dict(loaded, strict=False)
    for name, layer in adapted_layers(model).items():
        torch.testing.assert_close(
            layer.adapted_weight(),
            state[f'{name}.weight'],
            rtol=1e-5,
            atol=1e-6,
        )


def test_foreign_adapters_need_a_config(tool, tuned, tmp_path):
    folder, _ = tuned
    for words in (
        ('import', folder / 'authors.pth', 'x.pth', '--from', 'authors'),
        ('export', folder / 'tuned.pth', 'x', '--to', 'peft'),
    ):
        with pytest.raises(SystemExit, match='need --config'):
            tool.main([str(word) for word in words])
