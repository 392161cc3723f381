"""How long a run on the data is: schedule, validation, learning rate."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

# A run has at least so many iterations, …
LEAST_ITERATIONS = 2000
# … and one counted in iterations at most so many passes over the data.
MOST_PASSES = 100
_VALIDATIONS = 12
_MOST_CHECKPOINTS = 3
_IN_EPOCHS = ('begin', 'end', 'T_max', 'milestones', 'step_size')


@dataclass
class RunLength:
    """A run's length, before and after."""

    images: int
    batch_size: int
    epochs: int
    iterations: int
    by_epoch: bool
    stretch: float

    @property
    def per_epoch(self) -> int:
        """Iterations in one pass over the data."""
        return max(1, math.ceil(self.images / self.batch_size))


def set_length(
    cfg: Config,
    images: int,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> RunLength:
    """Set batch size, schedule, validation and logging for so many images.

    A config counted in epochs keeps them, or gets more until it has 2,000
    iterations. One counted in iterations keeps those, or gets fewer until it
    passes over the data 100 times, but no fewer than 2,000. Milestones and the
    switches of augmentation move in proportion; warm-up takes at most a tenth.

    Args:
        cfg: It is changed.
        images: Those that training sees.
        batch_size: Images per step on one GPU; by default the config's.
        epochs: Passes over the data, if the user says so.

    Returns:
        What came out.
    """
    train = cfg.train_cfg
    loader = cfg.train_dataloader
    batch = batch_size or loader.get('batch_size') or 1
    loader['batch_size'] = min(batch, images)
    by_epoch = train.get('max_iters') is None
    length = RunLength(images, loader['batch_size'], 0, 0, by_epoch, 1.0)
    per_epoch = length.per_epoch
    before = train['max_epochs' if by_epoch else 'max_iters']
    own = before * per_epoch if by_epoch else before
    if epochs:
        length.iterations = epochs * per_epoch
    elif by_epoch:
        length.iterations = max(own, LEAST_ITERATIONS)
    else:
        most = max(MOST_PASSES * per_epoch, LEAST_ITERATIONS)
        length.iterations = min(own, most)
    length.epochs = math.ceil(length.iterations / per_epoch)
    if by_epoch:
        length.iterations = length.epochs * per_epoch
        length.stretch = length.epochs / before
        train['max_epochs'] = length.epochs
        interval = max(1, round(length.epochs / _VALIDATIONS))
    else:
        length.stretch = length.iterations / before
        train['max_iters'] = length.iterations
        interval = max(1, length.iterations // _VALIDATIONS)
    train['val_interval'] = interval
    _move_switches(cfg, length)
    _move_schedule(cfg, length)
    _set_hooks(cfg, length, interval)
    return length


def _move_switches(cfg: Config, length: RunLength) -> None:
    """Move what happens at an epoch, such as the end of mosaic images."""
    intervals = cfg.train_cfg.get('dynamic_intervals')
    if intervals:
        cfg.train_cfg['dynamic_intervals'] = [
            (max(1, round(at * length.stretch)), every)
            for at, every in intervals
        ]
    for hook in cfg.get('custom_hooks') or ():
        for key in ('switch_epoch', 'num_last_epochs'):
            if isinstance(hook.get(key), int):
                moved = round(hook[key] * length.stretch)
                hook[key] = min(max(1, moved), length.epochs)


def _move_schedule(cfg: Config, length: RunLength) -> None:
    schedulers = cfg.get('param_scheduler') or []
    if isinstance(schedulers, dict):
        schedulers = [schedulers]
    starts = [
        s['end']
        for s in schedulers
        if not s.get('by_epoch', True) and s.get('begin', 0) == 0
        if s.get('end') and s['end'] < length.iterations / length.stretch
    ]
    warm = min(starts, default=0)
    new_warm = min(warm, length.iterations // 10)

    def moved(value: Any, by_epoch: bool) -> Any:
        if isinstance(value, (list, tuple)):
            places = [moved(v, by_epoch) for v in value]
            return type(value)(dict.fromkeys(places))
        if not isinstance(value, (int, float)) or value == 0:
            return value
        if not by_epoch and value <= warm:
            return round(value * new_warm / warm)
        if not by_epoch and length.by_epoch:
            # Counted in iterations of the whole run.
            return min(length.iterations, max(1, round(value)))
        return max(1, round(value * length.stretch))

    for scheduler in schedulers:
        by_epoch = scheduler.get('by_epoch', True)
        begin, end = scheduler.get('begin', 0), scheduler.get('end')
        whole = end is not None and scheduler.get('T_max') == end - begin
        for key in _IN_EPOCHS:
            if scheduler.get(key) is not None:
                scheduler[key] = moved(scheduler[key], by_epoch)
        if whole:
            scheduler['T_max'] = scheduler['end'] - scheduler.get('begin', 0)
    _close_gaps(schedulers)


def _close_gaps(schedulers: list[Any]) -> None:
    """Keep milestones below the end, and the end behind the beginning."""
    for scheduler in schedulers:
        end = scheduler.get('end')
        steps = scheduler.get('milestones')
        if end and steps:
            inside = [step for step in steps if step < end]
            scheduler['milestones'] = inside or [max(1, end - 1)]
        if end and end <= scheduler.get('begin', 0):
            scheduler['end'] = scheduler.get('begin', 0) + 1


def _set_hooks(cfg: Config, length: RunLength, interval: int) -> None:
    hooks = cfg.get('default_hooks') or {}
    checkpoint = hooks.get('checkpoint')
    if checkpoint:
        checkpoint['interval'] = interval
        checkpoint['by_epoch'] = length.by_epoch
        if checkpoint.get('max_keep_ckpts', -1) < 1:
            checkpoint['max_keep_ckpts'] = _MOST_CHECKPOINTS
        semantic = cfg.get('default_scope') == 'mmseg'
        checkpoint.setdefault('save_best', 'mIoU' if semantic else 'auto')
    logger = hooks.get('logger')
    if logger:
        often = max(1, length.per_epoch // 4)
        logger['interval'] = min(logger.get('interval', 10), often)


def set_learning_rate(cfg: Config, batch_size: int, gpus: int = 1) -> str:
    """Fit the learning rate to the batch: linear, as OpenMMLab does.

    The batch that the config's rate is meant for stands in its name (8xb2),
    else in ``auto_scale_lr``.

    Args:
        cfg: It is changed.
        batch_size: Images per step on one GPU.
        gpus: How many GPUs train.

    Returns:
        What was done, for the report.
    """
    named = re.search(r'(\d+)xb(\d+)', Path(cfg.filename or '').name)
    scaling = cfg.get('auto_scale_lr') or {}
    meant = scaling.get('base_batch_size')
    if named:
        meant = int(named[1]) * int(named[2])
    optimizer = cfg.optim_wrapper.get('optimizer') or {}
    rate, batch = optimizer.get('lr'), batch_size * gpus
    if not meant or not rate:
        return (
            f'{rate}, as in the config, which does not say for how many '
            'images per step it is meant'
        )
    cfg['auto_scale_lr'] = dict(scaling, enable=False, base_batch_size=batch)
    if meant == batch:
        return f'{rate}, as in the config, for {batch} images per step'
    factor = batch / meant
    optimizer['lr'] = float(f'{rate * factor:.4g}')
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in (
        [schedulers] if isinstance(schedulers, dict) else schedulers
    ):
        if scheduler.get('eta_min'):
            scheduler['eta_min'] = float(
                f'{scheduler["eta_min"] * factor:.4g}'
            )
    return (
        f'{optimizer["lr"]:g}: {rate:g} is meant for {meant} images per step, '
        f'these are {batch} (the linear rule of --auto-scale-lr)'
    )
