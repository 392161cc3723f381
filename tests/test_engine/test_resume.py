"""A resumed run is the uninterrupted one, bit for bit."""

import pytest
import torch

from .toy import AugmentedData, backbone_cfg, runner, write_base

# An epoch has three iterations.
EPOCHS = dict(by_epoch=True, max_epochs=3)
ITERATIONS = dict(by_epoch=False, max_iters=9)


def options(train_cfg, workers=0, persistent=False, **kwargs):
    """Return the options of a run that draws at random wherever it can."""
    by_epoch = train_cfg['by_epoch']
    loader = dict(
        batch_size=4,
        num_workers=workers,
        persistent_workers=persistent,
        sampler=dict(
            type='DefaultSampler' if by_epoch else 'InfiniteSampler',
            shuffle=True,
        ),
        collate_fn=dict(type='default_collate'),
        dataset=AugmentedData(),
    )
    return (
        dict(
            train_cfg=train_cfg,
            train_dataloader=loader,
            hook=dict(by_epoch=False, interval=1),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, end=6, by_epoch=False),
                dict(type='MultiStepLR', milestones=[2], by_epoch=by_epoch),
            ],
            # As in the configs of full size: drawn, and found in the checkpoint.
            randomness=dict(seed=None),
        )
        | kwargs
    )


def course(path):
    """Return all that a checkpoint says of its run, but for the clock."""
    found = torch.load(path, weights_only=True)
    hub = found.pop('message_hub')
    scalars = {
        key: value['_history_buffer']['values']
        for key, value in hub['log_scalars'].items()
        if 'time' not in key
    }
    meta = found.pop('meta')
    return dict(found, scalars=scalars, seed=meta['seed'], epoch=meta['epoch'])


def flat(value, name=''):
    """Yield the leaves of nested containers, by name."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from flat(item, f'{name}/{key}')


def assert_same_course(ours, theirs):
    """Check that two checkpoints are the same, bit for bit."""
    ours, theirs = dict(flat(course(ours))), dict(flat(course(theirs)))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs[key]), key
        else:
            assert value == theirs[key], key


def assert_resumes(tmp_path, last='iter_9.pth', middle=('iter_4.pth',), **kw):
    """Check a run against those that are resumed from its checkpoints."""
    config = backbone_cfg(write_base(tmp_path / 'base.pth'))
    runner(tmp_path / 'whole', config, **kw).train()
    for name in middle:
        again = tmp_path / f'from_{name}'
        path = str(tmp_path / 'whole' / name)
        runner(again, config, load_from=path, resume=True, **kw).train()
        assert_same_course(again / last, tmp_path / 'whole' / last)


@pytest.mark.parametrize(
    ('workers', 'persistent'),
    [(0, False), (1, True), (2, False), (2, True)],
)
@pytest.mark.parametrize(
    'train_cfg', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations']
)
def test_resumed_in_the_middle(tmp_path, train_cfg, workers, persistent):
    assert_resumes(tmp_path, **options(train_cfg, workers, persistent))
