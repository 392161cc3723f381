"""Reasons why a resumed run cannot repeat the uninterrupted one."""

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook


def what_cannot_repeat(runner: Any) -> list[str]:
    """Return what a checkpoint of this run does not hold.

    Returns:
        One sentence for each setting, with the reason and what would help.
    """
    loop = runner.train_loop
    transforms = list(_transforms(loop.dataloader.dataset))
    checks = {
        'train_cfg.fast_forward_on_resume=True starts the data again: leave '
        'it out.': getattr(loop, 'fast_forward_on_resume', False),
        'A transform keeps earlier images: use Mosaic and MixUp, not '
        'CachedMosaic and CachedMixUp.': any(
            hasattr(item, 'results_cache') for item in transforms
        ),
        'Albu draws from generators of its own: use the transforms of the '
        'toolkit.': any(type(item).__name__ == 'Albu' for item in transforms),
        'BatchSyncRandomResize keeps a size from earlier images: use '
        'RandomResize in the pipeline.': any(
            type(module).__name__ == 'BatchSyncRandomResize'
            for module in runner.model.modules()
        ),
        'EarlyStoppingHook counts from the start again.': any(
            isinstance(hook, EarlyStoppingHook) for hook in runner.hooks
        ),
        'Gradients are accumulated, and no checkpoint holds a part of a sum: '
        'resume after an iteration that accumulative_counts '
        'divides.': _cuts_sums(runner),
    }
    return [reason for reason, holds in checks.items() if holds]


def _transforms(item: Any) -> Iterator[Any]:
    """Yield the transforms of a data set, of those in it, and their parts."""
    if isinstance(item, (list, tuple)):
        for part in item:
            yield from _transforms(part)
        return
    for name in ('pipeline', 'dataset', 'datasets', 'transforms'):
        part = getattr(item, name, None)
        if part is not None:
            yield from _transforms(part)
    yield item


def _cuts_sums(runner: Any) -> bool:
    """Return whether a sum of gradients is cut where a run is resumed."""
    count = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if count == 1:
        return False
    steps = [
        hook.interval * (len(runner.train_dataloader) if hook.by_epoch else 1)
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook)
    ]
    return any(step > 0 and step % count for step in (*steps, runner.iter))
