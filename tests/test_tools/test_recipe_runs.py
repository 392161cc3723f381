"""The small twins of the recipes train, test and leave by the tools."""

import pytest
import timm
import torch
from mmengine.config import Config

from .conftest import CONFIGS
from .test_runs import EVERY, losses

TWINS = sorted((CONFIGS / 'flora').glob('*-tiny_flora-r16_shapes*.py'))
TWINS = [path for path in TWINS if 'internvit' not in path.name]
METRICS = {'mmdet': 'bbox_mAP', 'mmrotate': 'dota/mAP', 'mmseg': 'mIoU'}


@pytest.fixture(scope='module')
def base(workspace):
    """A base that nobody trained, at the place that the configs name."""
    vit = Config.fromfile(TWINS[0]).vit
    torch.manual_seed(0)
    own = {key: vit[key] for key in ('embed_dim', 'depth', 'num_heads')}
    state = timm.create_model(vit.model_name, **own).state_dict()
    path = workspace.folder / vit.init_cfg.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        dict(state_dict={f'backbone.{key}': state[key] for key in state}), path
    )


@pytest.mark.slow
@pytest.mark.parametrize('config', TWINS, ids=lambda path: path.stem)
def test_twin(config, workspace, base):
    cfg = Config.fromfile(config)
    epochs = cfg.train_cfg.type == 'EpochBasedTrainLoop'
    steps = (
        ['train_cfg.max_epochs=1', 'param_scheduler=[]']
        if epochs
        else ['train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2']
    )
    work = workspace.folder / config.stem
    out = work / 'plain'
    trained, tested, _ = workspace.run_tools(
        ('train.py', config, '--work-dir', work, '--cfg-options', EVERY)
        + ('train_dataloader.batch_size=4', *steps),
        ('test.py', config, work / f'{"epoch_1" if epochs else "iter_2"}.pth'),
        ('merge.py', config, work / f'{"epoch_1" if epochs else "iter_2"}.pth')
        + ('--out', out / 'merged.pth', '--out-config', out / 'plain.py'),
    )
    assert len(losses(trained)) == 2
    assert METRICS[cfg.default_scope] in tested
    assert (out / 'merged.pth').is_file()


@pytest.mark.slow
def test_base_and_adapters_learn(workspace, tmp_path):
    """The whole small path: a base is trained, then adapters over it."""
    from demo.shapes import write_shapes

    for domain in ('source', 'target'):
        write_shapes(tmp_path / 'data/shapes', domain, num_train=96, num_val=8)
    name = 'mask-rcnn_dinov3-vit-tiny_{}.py'
    texts = type(workspace)(tmp_path).run_tools(
        ('train.py', CONFIGS / 'full' / name.format('full_shapes-source'))
        + ('--cfg-options', EVERY),
        ('train.py', CONFIGS / 'flora' / name.format('flora-r16_shapes'))
        + ('--cfg-options', EVERY, 'train_cfg.max_epochs=3'),
    )
    for text in texts:
        course = losses(text)
        assert sum(course[-10:]) < 0.8 * sum(course[:10])
    assert (tmp_path / 'work_dirs/shapes_base_dinov3/base.pth').is_file()
