"""The small UperNet on InternViT trains, resumes and tests by the tools.

Default: two iterations and two more.  Slow: the base of the small configs is
trained, then adapters over it; a base in bfloat16.
"""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from .conftest import CONFIGS
from .test_runs import EVERY, ITERS, losses, read_metric

NAME = 'upernet_internvit-tiny_{}_shapes-128x128.py'
FLORA = CONFIGS / 'flora' / NAME.format('flora-r16')
SOURCE = CONFIGS / 'full/upernet_internvit-tiny_full_shapes-source.py'


@pytest.fixture(scope='module')
def base(workspace):
    """A base that nobody trained, at the place that the configs name."""
    from mmflora.models import InternViT

    backbone = Config.fromfile(FLORA).model.backbone
    options = {
        key: backbone[key]
        for key in (
            *('img_size', 'patch_size', 'embed_dims', 'depth'),
            *('num_heads', 'out_indices'),
        )
    }
    torch.manual_seed(0)
    state = InternViT(**options).state_dict()
    path = workspace.folder / backbone.init_cfg.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        dict(state_dict={f'backbone.{key}': state[key] for key in state}), path
    )
    return path


# By default the quantized twin takes the same steps (test_quantized_runs).
@pytest.mark.slow
def test_train_resume_and_test(workspace, base):
    work = workspace.folder / FLORA.stem
    half, whole = work / 'iter_2.pth', work / 'iter_4.pth'
    inference = Path(__file__).with_name('inference.py')
    folder = workspace.folder / 'data/shapes/target/coco/val2017'
    picture = sorted(folder.iterdir())[0]
    trained, continued, tested, inferred = workspace.run_tools(
        ('train.py', FLORA, '--work-dir', work, '--cfg-options', EVERY)
        + tuple(ITERS.format(2).split()),
        ('train.py', FLORA, '--work-dir', work, '--resume')
        + ('--cfg-options', EVERY, *ITERS.format(4).split()),
        ('test.py', FLORA, whole, '--work-dir', work),
        (inference, FLORA, whole, picture),
    )
    # By init_model and by the inferencer, which never run init_weights().
    agreed = re.findall('(.*): weights True, predictions True', inferred)
    assert len(agreed) == 2, inferred
    assert half.is_file()
    assert len(losses(trained)) == len(losses(continued)) == 2
    assert 'resumed epoch: 0, iter: 2' in continued
    assert read_metric(continued, 'val', 'mIoU') == read_metric(
        tested, 'test', 'mIoU'
    )
    names = torch.load(whole, weights_only=False)['state_dict'].keys()
    assert 'backbone.blocks.3.mlp.fc2.adapter.core' in names
    assert 'backbone.pyramid.up1.0.weight' in names, 'it is new'
    assert 'backbone.blocks.3.mlp.fc2.weight' not in names
    assert 'backbone.pos_embed' not in names


@pytest.mark.slow
def test_bfloat16_base_trains_under_autocast(workspace, base):
    work = workspace.folder / 'bfloat16'
    options = (
        'model.backbone.dtype=bfloat16 model.backbone.autocast=bfloat16 '
        'model.backbone.lean=True'
    )
    (text,) = workspace.run_tools(
        ('train.py', FLORA, '--work-dir', work, '--cfg-options', EVERY)
        + (*ITERS.format(4).split(), *options.split())
    )
    assert len(losses(text)) == 4
    state = torch.load(work / 'iter_4.pth', weights_only=False)['state_dict']
    floats = {v.dtype for v in state.values() if v.is_floating_point()}
    assert floats == {torch.float32}


@pytest.mark.slow
def test_base_and_adapters_learn(workspace, tmp_path):
    """The whole small path: a base is trained, then adapters over it."""
    from demo.shapes import write_shapes

    for domain in ('source', 'target'):
        write_shapes(
            tmp_path / 'data/shapes', domain, num_train=160, num_val=40
        )
    here = type(workspace)(tmp_path)
    short = ['train_cfg.max_iters=160', 'train_cfg.val_interval=160']
    texts = here.run_tools(
        ('train.py', SOURCE, '--cfg-options', EVERY, *short),
        ('train.py', FLORA, '--cfg-options', EVERY, *short),
    )
    for text in texts:
        course = losses(text)
        assert len(course) == 160
        assert sum(course[-20:]) < sum(course[:20]) / 2
        # The background alone has a seventh of the classes.
        assert float(read_metric(text, 'val', 'mIoU')) > 100 / 7
    assert (tmp_path / 'work_dirs/shapes_base_internvit/base.pth').is_file()
