"""Files and configs that earlier versions wrote still mean the same."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).parent / 'v0.1.0'
sys.path[:0] = [str(FILES.parent), str(ROOT / 'tests' / 'test_engine')]

import make  # noqa: E402
import toy  # noqa: E402

# Float32 on other processors: sums of up to 3·32·32 terms in other orders,
# through four blocks. Logits are of size one, a wrong file moves them by 0.1.
BOUND = dict(rtol=1e-3, atol=1e-4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand where the files say that their base is."""
    shutil.copytree(FILES, tmp_path / 'v0.1.0')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('method', make.METHODS)
def test_checkpoints_test_as_they_did(folder, method):
    if method.startswith('peft'):
        pytest.importorskip('peft')
    toy.runner(
        folder / 'run',
        make.backbone(method, 'v0.1.0/base.pth'),
        test=True,
        load_from=f'v0.1.0/{method}.pth',
    ).test()
    expected = torch.load(FILES / 'logits.pth', weights_only=True)
    torch.testing.assert_close(toy.Logits.last, expected[method], **BOUND)


@pytest.mark.parametrize('method', ['flora', 'houlsby'])
def test_adapter_files_load_as_they_did(folder, method):
    toy.runner(
        folder / 'run',
        make.backbone(method, 'v0.1.0/base.pth'),
        test=True,
        load_from=f'v0.1.0/{method}.safetensors',
    ).test()
    expected = torch.load(FILES / 'logits.pth', weights_only=True)
    torch.testing.assert_close(toy.Logits.last, expected[method], **BOUND)


def test_training_goes_on_from_an_old_checkpoint(folder):
    run = toy.runner(
        folder / 'run',
        make.backbone('flora', 'v0.1.0/base.pth'),
        load_from='v0.1.0/flora.pth',
        resume=True,
    )
    run.train()
    assert run.iter == 6
    assert (folder / 'run/epoch_2.pth').is_file()


@pytest.mark.parametrize('name', [Path(name).name for name in make.CONFIGS])
def test_configs_build_what_they_did(name):
    config = Config.fromfile(FILES / name)
    scope = DefaultScope.get_current_instance()
    init_default_scope(config.default_scope)
    try:
        backbone = dict(config.model.backbone, init_cfg=None)
        built = MODELS.build(backbone)
    finally:
        init_default_scope(scope.scope_name if scope else 'mmengine')
    adapter = config.model.backbone.adapter
    assert built.base_record.method['adapter'] == adapter
    assert any('adapter.' in key for key in built.state_dict())
