"""Every method trains, checkpoints, resumes, tests and merges.

Default: one method of each kind on the small Mask R-CNN.  Slow: all of its
configs, with losses that fall, and the other two models.
"""

import re

import pytest
import torch
from mmengine.config import Config

from .conftest import CONFIGS
from .test_runs import BY_EPOCH, BY_ITER, EVERY, losses, read_metric

SLOW = pytest.mark.slow
# Of each kind: an update, the base's own parameters, a block's, and one of
# peft, with a hook.
FAST = ('houlsby', 'adalora-r8')
# A worker takes longer to start than so few pictures to load.
IN_PROCESS = [
    f'{loader}_dataloader.{option}'
    for loader in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]
NOT_MERGEABLE = {
    *('houlsby', 'pfeiffer', 'adaptformer', 'compacter', 'mosa'),
    *('conv-adapter', 'e3va-r8', 'ladder', 'lorand', 'mona', 'sct'),
    *('noah', 'queryable-lora-r8', 'rein', 'vpt-deep', 'vpt-shallow'),
}


def small_configs(model):
    """Map each method to its small config of one model."""
    found = CONFIGS.glob(f'*/{model}_convnextv2-atto_*_shapes*.py')
    named = {path.stem.split('_')[2]: path for path in sorted(found)}
    return {
        method: path
        for method, path in named.items()
        if not path.stem.endswith('source')
    }


MASK_RCNN = small_configs('mask-rcnn')


def changes(config):
    """Return what the runs change in a config: there are two batches."""
    peft = Config.fromfile(config).model.backbone.get('peft', {})
    batches = 'model.backbone.peft.calibration.batches=2'
    own = (batches,) if 'calibration' in peft else ()
    return (EVERY, *IN_PROCESS, *own)


def commands(config, work, schedule, resume=True):
    """Return the command lines of a run: train, resume, test, merge."""
    options, (first, last), file, _ = schedule
    whole = work / file.format(last)
    train = ('train.py', config, '--work-dir', work)
    every = ('--cfg-options', *changes(config))
    return [
        train + every + tuple(options.format(first).split()),
        (*train, '--resume', *every, *options.format(last).split()),
        ('test.py', config, whole, '--work-dir', work, *every),
        (CONFIGS.parent / 'tests/test_tools/merging.py', config, whole),
    ]


def check_run(output, work, method, schedule, metric):
    """Check what the commands of one run printed and wrote."""
    trained, continued, tested, merged = output
    _, (first, last), file, resumed = schedule
    assert len(losses(trained)) == len(losses(continued)) == 2
    assert resumed in continued
    assert read_metric(continued, 'val', metric) == read_metric(
        tested, 'test', metric
    )
    half, whole = (
        torch.load(work / file.format(step), weights_only=False)['state_dict']
        for step in (first, last)
    )
    assert half.keys() == whole.keys()
    own = [
        key
        for key in whole
        if key.startswith('backbone.')
        and not re.match(r'backbone\.(norm\d|base_record)\.', key)
    ]
    assert bool(own) == (method != 'frozen')
    moved = [key for key in own if not torch.equal(half[key], whole[key])]
    assert bool(moved) == bool(own), 'nothing of the method was trained'
    if method == 'adalora-r8':
        check_ranks(whole)
    check_merged(merged, method)


def check_ranks(state):
    """Check that the hook kept the budget of the last of four steps."""
    values = [state[key] for key in state if '.lora_E.' in key]
    first, last = sum(map(torch.numel, values)), 8 * len(values)
    left = sum(int(value.count_nonzero()) for value in values)
    # AdaLoRA's schedule is cubic (its equation 12).
    assert left == int((first - last) * (1 - 3 / 4) ** 3 + last) < first


def check_merged(text, method):
    """Check that a method merges where it says so."""
    if method in NOT_MERGEABLE:
        assert 'not merged: ' in text
        assert 'cannot be merged' in text
    elif method == 'frozen':
        assert 'not merged: ' in text
        assert 'no adapted layer' in text
    else:
        (off,) = re.findall(r'merged: plain True, features off by (\S+)', text)
        assert float(off) < 1e-4


def run(workspace, configs, schedule, metric):
    """Run several configs in one process, and check each."""
    works = {
        method: workspace.folder / config.stem
        for method, config in configs.items()
    }
    lines = [
        line
        for method, config in configs.items()
        for line in commands(config, works[method], schedule)
    ]
    output = workspace.run_tools(*lines)
    for index, (method, work) in enumerate(works.items()):
        part = output[4 * index : 4 * index + 4]
        check_run(part, work, method, schedule, metric)


def test_methods_run(workspace):
    chosen = {method: MASK_RCNN[method] for method in FAST}
    run(workspace, chosen, BY_EPOCH, 'coco/segm_mAP')


@SLOW
@pytest.mark.parametrize('method', sorted(MASK_RCNN.keys() - set(FAST)))
def test_every_method_runs(workspace, method):
    chosen = {method: MASK_RCNN[method]}
    run(workspace, chosen, BY_EPOCH, 'coco/segm_mAP')


@SLOW
@pytest.mark.parametrize(
    ('model', 'schedule', 'metric'),
    [
        pytest.param(
            'oriented-rcnn-le90', BY_EPOCH, 'dota/mAP', id='mmrotate'
        ),
        pytest.param('upernet', BY_ITER, 'mIoU', id='mmseg'),
    ],
)
def test_methods_run_in_the_other_toolkits(workspace, model, schedule, metric):
    run(workspace, small_configs(model), schedule, metric)


@SLOW
@pytest.mark.parametrize('method', MASK_RCNN)
def test_losses_fall(workspace, method):
    config = MASK_RCNN[method]
    work = workspace.folder / f'falling_{method}'
    (text,) = workspace.run_tools(
        ('train.py', config, '--work-dir', work, '--no-validate')
        + ('--cfg-options', *changes(config), 'train_cfg.max_epochs=20')
        + ('train_dataloader.batch_size=4', 'default_hooks.checkpoint=None')
    )
    values = losses(text)
    assert len(values) == 40
    assert all(value == value for value in values)
    assert sum(values[-8:]) < 0.7 * sum(values[:8])
