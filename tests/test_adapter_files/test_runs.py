"""A training, its export and import, and tools/test.py in between.

Default: MMSegmentation.  Slow: MMDetection and MMRotate.
"""

import pickle

import pytest
import torch
from test_tools.conftest import workspace  # noqa: F401
from test_tools.test_runs import (
    BY_EPOCH,
    BY_ITER,
    MASK_RCNN,
    ORIENTED,
    UPERNET,
    read_metric,
)

SLOW = pytest.mark.slow


def arrays(sample):
    """Return every tensor of a dumped prediction, in order."""
    if isinstance(sample, torch.Tensor):
        return [sample]
    if isinstance(sample, dict):
        return [part for key in sorted(sample) for part in arrays(sample[key])]
    tensor = getattr(sample, 'tensor', None)
    return [] if tensor is None else [tensor]


@pytest.mark.parametrize(
    ('config', 'schedule', 'metric', 'toolkit'),
    [
        # By default the page's walk-through does it (test_walk_through).
        pytest.param(
            UPERNET, BY_ITER, 'mIoU', 'mmseg', id='mmseg', marks=SLOW
        ),
        pytest.param(
            MASK_RCNN,
            BY_EPOCH,
            'coco/bbox_mAP',
            'mmdet',
            id='mmdet',
            marks=SLOW,
        ),
        pytest.param(
            ORIENTED,
            BY_EPOCH,
            'dota/mAP',
            'mmrotate',
            id='mmrotate',
            marks=SLOW,
        ),
    ],
)
def test_imported_adapters_predict_the_same(
    workspace,  # noqa: F811
    config,
    schedule,
    metric,
    toolkit,
):
    options, (first, _), file, _ = schedule
    work = workspace.folder / f'files_{config.stem}'
    trained = work / file.format(first)
    adapter, back = work / 'adapter', work / 'elsewhere/back.pth'
    outputs = [work / 'ours.pkl', work / 'theirs.pkl']
    _, exported, _, before, after = workspace.run_tools(
        ('train.py', config, '--work-dir', work, '--no-validate')
        + ('--cfg-options', *options.format(first).split()),
        ('adapters.py', 'export', trained, adapter),
        ('adapters.py', 'import', adapter, back, '--config', config),
        ('test.py', config, trained, '--work-dir', work)
        + ('--out', outputs[0]),
        ('test.py', config, back, '--work-dir', work, '--out', outputs[1]),
    )
    assert f'toolkit    {toolkit}' in exported
    assert 'circle, triangle, square' in exported
    assert "'type': 'FLoRA'" in exported
    assert 'layout timm' in exported
    assert read_metric(before, 'test', metric) == read_metric(
        after, 'test', metric
    )
    dumped = []
    for path in outputs:
        with open(path, 'rb') as predictions:
            dumped.append(pickle.load(predictions))
    assert len(dumped[0]) == len(dumped[1]) == 4
    compared = 0
    for one, two in zip(*dumped, strict=True):
        for ours, theirs in zip(arrays(one), arrays(two), strict=True):
            assert torch.equal(ours, theirs)
            compared += 1
    assert compared >= 4
    state = torch.load(trained, weights_only=True)['state_dict']
    again = torch.load(back, weights_only=True)['state_dict']
    for key, value in state.items():
        assert torch.equal(again[key], value), key
