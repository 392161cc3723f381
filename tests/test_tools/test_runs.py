"""The small configs train, resume and test through the tools.

Default: MMDetection and MMSegmentation.  Slow: MMRotate, all other small
configs, test-time augmentation, and mixed precision.
"""

import pickle
import re
from pathlib import Path

import pytest
import torch

from .conftest import CONFIGS

FLORA = CONFIGS / 'flora'
MASK_RCNN = FLORA / 'mask-rcnn_convnextv2-atto_flora-r16_shapes.py'
ORIENTED = FLORA / 'oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py'
UPERNET = FLORA / 'upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
EPOCHS = (
    'train_cfg.max_epochs={0} train_cfg.val_interval=2 '
    'train_dataloader.batch_size=4'
)
ITERS = (
    'train_cfg.max_iters={0} train_cfg.val_interval=4 '
    'default_hooks.checkpoint.interval=2 train_dataloader.batch_size=4'
)
EVERY = 'default_hooks.logger.interval=1'
# Two steps, two more after a resume: options, checkpoints, word in the log.
BY_EPOCH = (EPOCHS, (1, 2), 'epoch_{}.pth', 'resumed epoch: 1, iter: 2')
BY_ITER = (ITERS, (2, 4), 'iter_{}.pth', 'resumed epoch: 0, iter: 2')
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ('config', 'schedule', 'metric'),
    [
        pytest.param(MASK_RCNN, BY_EPOCH, 'coco/segm_mAP', id='mmdet'),
        pytest.param(
            ORIENTED, BY_EPOCH, 'dota/mAP', id='mmrotate', marks=SLOW
        ),
        pytest.param(UPERNET, BY_ITER, 'mIoU', id='mmseg'),
    ],
)
def test_train_resume_and_test(workspace, config, schedule, metric):
    options, (first, last), file, resumed = schedule
    work = workspace.folder / config.stem
    half, whole = work / file.format(first), work / file.format(last)
    inference = Path(__file__).with_name('inference.py')
    folder = workspace.folder / 'data/shapes/target/coco/val2017'
    picture = sorted(folder.iterdir())[0]
    trained, continued, tested, inferred = workspace.run_tools(
        ('train.py', config, '--work-dir', work, '--cfg-options', EVERY)
        + tuple(options.format(first).split()),
        ('train.py', config, '--work-dir', work, '--resume')
        + ('--cfg-options', EVERY, *options.format(last).split()),
        ('test.py', config, whole, '--work-dir', work)
        + ('--out', work / 'out.pkl'),
        (inference, config, whole, picture),
    )
    agreed = re.findall('(.*): weights True, predictions True', inferred)
    assert len(agreed) == 2, inferred

    assert half.is_file()
    assert len(losses(trained)) == len(losses(continued)) == 2
    assert resumed in continued
    assert read_metric(continued, 'val', metric) == read_metric(
        tested, 'test', metric
    )
    with open(work / 'out.pkl', 'rb') as predictions:
        assert len(pickle.load(predictions)) == 4

    weights = torch.load(whole, map_location='cpu', weights_only=False)
    names = weights['state_dict'].keys()
    assert any('.adapter' in name for name in names)
    assert 'backbone.stem.0.weight' not in names, 'the base stays out'


@SLOW
def test_test_time_augmentation(workspace):
    work = workspace.folder / 'tta'
    _, text = workspace.run_tools(
        ('train.py', UPERNET, '--work-dir', work, '--no-validate', '--amp')
        + ('--cfg-options', *ITERS.format(2).split()),
        ('test.py', UPERNET, work / 'iter_2.pth', '--work-dir', work)
        + ('--tta',),
    )
    assert read_metric(text, 'test', 'mIoU')


def losses(text):
    return [
        float(value)
        for value in re.findall(r'\(train\) .*? loss: ([\d.]+)', text)
    ]


def read_metric(text, stage, name):
    (value,) = re.findall(rf'\({stage}\) .* {name}: (-?[\d.]+)', text)
    return value


@SLOW
def test_convnextv2_large_trains_two_iterations(workspace):
    """The full-size config on small pictures: every part of it is built."""
    work = workspace.folder / 'large'
    coco = 'data/shapes/target/coco/'
    options = [
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
        'model.backbone.init_cfg=None',
        'model.backbone.allow_random_base=True',
        'model.backbone.with_cp=True',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        f'train_dataloader.dataset.data_root={coco}',
        'train_dataloader.dataset.metainfo.classes='
        'circle,triangle,square,bar,star,cross',
        'train_dataloader.dataset.pipeline.2.scale=(128,128)',
    ]
    (printed,) = workspace.run_tools(
        ('train.py', FLORA / 'mask-rcnn_convnextv2-l_flora-r16_coco.py')
        + ('--work-dir', work, '--no-validate', '--cfg-options', *options)
    )
    assert len(losses(printed)) == 2
    assert '4,857,349' in printed
