"""A resumed run is the uninterrupted one, bit for bit."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import EarlyStoppingHook

from mmflora.engine import seeded_batches

from .courses import assert_same_course, course
from .toy import (
    AugmentedData,
    Logits,
    ToyData,
    backbone_cfg,
    runner,
    write_base,
)

# An epoch has three iterations.
EPOCHS = dict(by_epoch=True, max_epochs=3)
ITERATIONS = dict(by_epoch=False, max_iters=9)
SEEDS = dict(type='mmflora.IterationSeedHook')
EMA = dict(type='EMAHook', momentum=0.3)


def options(train_cfg=EPOCHS, workers=0, persistent=False, **kwargs):
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
            hook=dict(by_epoch=False, interval=4),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, end=6, by_epoch=False),
                dict(type='MultiStepLR', milestones=[2], by_epoch=by_epoch),
            ],
            # Drawn, as in the configs of full size.
            randomness=dict(seed=None),
        )
        | kwargs
    )


def check(tmp_path, middle, last='iter_9.pth', **kwargs):
    """Check a run against one that is resumed from its checkpoint."""
    config = backbone_cfg(write_base(tmp_path / 'base.pth'))
    whole, rest = tmp_path / 'whole', tmp_path / 'rest'
    runner(whole, config, **kwargs).train()
    path = str(whole / middle)
    again = runner(rest, config, load_from=path, resume=True, **kwargs)
    again.train()
    assert_same_course(rest / last, whole / last)
    return again


@pytest.mark.parametrize(
    ('workers', 'persistent'),
    [(0, False), (1, True), (2, False)],
)
@pytest.mark.parametrize(
    'train_cfg', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations']
)
def test_resumed_in_the_middle(tmp_path, train_cfg, workers, persistent):
    check(tmp_path, 'iter_4.pth', **options(train_cfg, workers, persistent))


def test_resumed_at_the_end_of_an_epoch(tmp_path):
    # Written before the scheduler that counts epochs has made its step.
    hook = dict(by_epoch=False, interval=3)
    check(tmp_path, 'iter_3.pth', **options(hook=hook))


def test_resumed_in_the_second_pass_of_an_iteration_loop(
    tmp_path, monkeypatch
):
    # MMEngine waits two seconds where the data ends.
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)
    kwargs = options(ITERATIONS, workers=1)
    kwargs['train_dataloader']['sampler']['type'] = 'DefaultSampler'
    check(tmp_path, 'iter_4.pth', **kwargs)


def test_resumed_after_an_epoch(tmp_path):
    hook = dict(interval=1)
    check(tmp_path, 'epoch_2.pth', 'epoch_3.pth', **options(hook=hook))


def test_resumed_with_the_groups_of_another_constructor(tmp_path):
    optimizer = dict(type='AdamW', lr=1e-2)
    wrapper = dict(type='OptimWrapper', optimizer=optimizer)
    check(tmp_path, 'iter_4.pth', **options(optim_wrapper=wrapper))


def test_workers_change_nothing(tmp_path):
    config = backbone_cfg(write_base(tmp_path / 'base.pth'))
    ways = [(0, False), (1, True), (2, False)]
    for way in ways:
        kwargs = options(EPOCHS, *way, randomness=dict(seed=3))
        runner(tmp_path / str(way), config, **kwargs).train()
    files = [tmp_path / str(way) / 'iter_9.pth' for way in ways]
    assert_same_course(files[0], files[1])
    assert_same_course(files[0], files[2])
    seen = course(files[0])['scalars']['train/loss']
    assert len(seen.unique()) == len(seen) == 9


def test_average_goes_on_and_holds_what_trains(tmp_path):
    loader = options()['train_dataloader']
    loader.update(dataset=ToyData())
    loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
    again = check(
        tmp_path,
        'iter_4.pth',
        **options(
            custom_hooks=[SEEDS, EMA],
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=[Logits()],
        ),
    )
    assert 'val/first' in course(tmp_path / 'rest/iter_9.pth')['scalars']
    (hook,) = (h for h in again.hooks if type(h).__name__ == 'EMAHook')
    average, model = hook.ema_model, again.model
    frozen = {f'backbone.{k}' for k in model.backbone.base_record.base_keys}
    assert frozen
    assert not frozen & average.avg_parameters.keys()
    own = dict(model.named_parameters())
    for name, value in average.module.named_parameters():
        assert (value is own[name]) == (name in frozen), name
    saved = course(tmp_path / 'rest/iter_9.pth')['ema_state_dict']
    assert not {f'module.{key}' for key in frozen} & saved.keys()


def test_a_loader_of_another_size_begins_the_epoch_again(tmp_path, capsys):
    config = backbone_cfg(write_base(tmp_path / 'base.pth'))
    runner(tmp_path / 'whole', config, **options()).train()
    kwargs = options(load_from=str(tmp_path / 'whole/iter_4.pth'), resume=True)
    kwargs['train_dataloader']['batch_size'] = 2
    again = runner(tmp_path / 'rest', config, **kwargs)
    again.train()
    assert again.iter == 4 + 2 * 6
    assert 'The data is read otherwise' in capsys.readouterr().out


def test_what_cannot_be_repeated_is_said_once(tmp_path, capsys):
    config = backbone_cfg(write_base(tmp_path / 'base.pth'))
    built = runner(
        tmp_path / 'run',
        config,
        **options(
            ITERATIONS,
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='SGD', lr=0.1),
                accumulative_counts=2,
            ),
            hook=dict(by_epoch=False, interval=3),
        ),
    )
    built.register_hook(EarlyStoppingHook(monitor='loss', rule='less'))
    built.train_dataloader.dataset.pipeline = [Cached(), Albu()]
    built.train()
    lines = capsys.readouterr().out.splitlines()
    (said,) = (line for line in lines if 'does not repeat' in line)
    for word in ('CachedMosaic', 'Albu', 'EarlyStopping', 'accumulated'):
        assert word in said


class Cached:
    """Keeps images, as CachedMosaic does."""

    results_cache = ()


class Albu:
    """Has the name of the toolkits' transform."""


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_seeds_are_the_same_on_every_machine(monkeypatch, device):
    monkeypatch.setattr(seeded_batches, 'get_device', lambda: device)
    seeded_batches.seed_generators(np.random.SeedSequence([1, 2, 3]))
    drawn = random.random(), np.random.rand(), torch.rand(2).tolist()
    first, second, third = np.random.SeedSequence([1, 2, 3]).generate_state(3)
    random.seed(int(first))
    np.random.seed(int(second))
    torch.manual_seed(int(third))
    assert drawn == (random.random(), np.random.rand(), torch.rand(2).tolist())
