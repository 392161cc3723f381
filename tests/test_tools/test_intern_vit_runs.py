"""The small UperNet on InternViT trains, resumes and tests by the tools.

All of it is slow: the base of the small configs is trained, then adapters
over it; a base in bfloat16.  test_quantized_runs.py resumes and tests.
"""

import pytest
import torch
from mmengine.config import Config

from .conftest import CONFIGS
from .test_method_runs import run
from .test_runs import BY_ITER, EVERY, ITERS, losses, read_metric

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
def test_tokens_train_resume_and_test(workspace, base):
    configs = {
        method: CONFIGS / method.partition('-')[0] / NAME.format(method)
        for method in ('noah', 'rein', 'vpt-deep', 'vpt-shallow')
    }
    run(workspace, configs, BY_ITER, 'mIoU')
    for config in configs.values():
        work = workspace.folder / config.stem
        first, last = (
            torch.load(work / f'iter_{i}.pth', weights_only=False)
            for i in (2, 4)
        )
        own = [key for key in first['state_dict'] if '.adapter.' in key]
        assert own
        for key in own:
            moved = first['state_dict'][key] != last['state_dict'][key]
            assert moved.any(), key


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
