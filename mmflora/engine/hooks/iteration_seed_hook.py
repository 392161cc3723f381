"""Randomness that a resumed run repeats."""

from typing import Any

import numpy as np
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook

from mmflora.registry import HOOKS

from ..repeatability import what_cannot_repeat
from ..seeded_batches import SeededBatches, seed_generators, seeded_batches

_KEY = 'mmflora_data_position'


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Makes a resumed run repeat the uninterrupted one, bit for bit.

    Each training iteration is seeded by the run's seed, its number and the
    rank: stochastic depth, dropout and the sampling of proposals depend on
    nothing else.  Each sample is seeded by its place in the run, whichever
    process loads it: augmentation depends neither on the number of data
    workers nor on when they were started.  A resumed run keeps the order of
    the data and skips the batches that were seen, also in the middle of an
    epoch.

    What cannot be repeated is logged once, with the reason.

    Example:
        >>> custom_hooks = [dict(type='mmflora.IterationSeedHook')]
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._built_seed: int | None = None
        # Batches seen in this pass over the data, and what gave them.
        self._done = 0
        self._source: dict[str, Any] = {}

    def before_run(self, runner: Any) -> None:
        """Note the seed that the loader was built with."""
        self._built_seed = runner.seed

    def before_train(self, runner: Any) -> None:
        """Find where the run goes on, and say what cannot be repeated."""
        reasons = what_cannot_repeat(runner)
        batches = seeded_batches(runner.train_dataloader, get_rank())
        if batches is None:
            reasons.append('The data set has no indices, or no batch_size.')
        else:
            reasons += self._go_on(runner, batches)
        if reasons:
            runner.logger.warning(
                'A resumed run does not repeat the uninterrupted one: '
                + ' '.join(reasons)
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Seed each sample, and leave out the batches that were seen."""
        loop, seen = runner.train_loop, self._done
        batches = seeded_batches(loop.dataloader, get_rank())
        if batches is None:
            return
        batches.seed = int(runner.seed or 0)
        batches.next_pass, batches.skip = runner.epoch, seen
        if seen and not _counts_iterations(loop):
            # The log counts the batches of an epoch from its start.
            run_iter = loop.run_iter
            loop.run_iter = lambda index, batch: run_iter(index + seen, batch)

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Seed Python, NumPy and PyTorch."""
        key = [int(runner.seed or 0), runner.iter, get_rank()]
        seed_generators(np.random.SeedSequence(key))
        self._note(runner, self._done + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """Begin the next epoch at its start."""
        self._note(runner, 0)
        vars(runner.train_loop).pop('run_iter', None)

    def _note(self, runner: Any, done: int) -> None:
        """Keep the place in the data where every checkpoint has it."""
        self._done = done
        runner.message_hub.update_info(_KEY, dict(self._source, done=done))

    def _go_on(self, runner: Any, batches: SeededBatches) -> list[str]:
        """Take up the order of the data and the place in it.

        Returns:
            Why it cannot be the same order, if so.
        """
        loop, sampler = runner.train_loop, batches.sampler
        saved = runner.message_hub.get_info(_KEY, {}) if runner.iter else {}
        if getattr(sampler, 'seed', None) is not None:
            # The loader was built before the run's seed was read.
            drawn = sampler.seed == self._built_seed
            sampler.seed = saved.get(
                'sampler_seed', runner.seed if drawn else sampler.seed
            )
        self._source = dict(
            sampler_seed=getattr(sampler, 'seed', None),
            batches=len(batches),
            batch_size=getattr(batches, 'batch_size', None),
            ranks=get_world_size(),
        )
        if _counts_iterations(loop):
            # MMEngine would take the batches off the sampler by itself.
            loop.dataloader_iterator.skip_iter = _leave_to_batches
            ahead = loop.fast_forward_on_resume
            self._done = 0 if ahead else runner.iter
        else:
            before = runner.epoch * len(batches)
            self._done = saved.get('done', runner.iter - before)
        theirs = {key: saved.get(key) for key in self._source}
        if saved and theirs != self._source:
            change = f'{theirs} in the checkpoint, {self._source} now'
        elif 0 <= self._done <= len(batches) or _counts_iterations(loop):
            return []
        else:
            change = f'{runner.iter} iterations end in epoch {runner.epoch}'
        if not _counts_iterations(loop):
            self._done = 0  # as MMEngine does: the whole epoch again
        return [f'The data is read otherwise ({change}).']


def _counts_iterations(loop: Any) -> bool:
    """Return whether a loop counts iterations, not epochs."""
    return hasattr(loop, 'dataloader_iterator')


def _leave_to_batches(_: int) -> None:
    """Stand in for the loop's own way to skip batches."""
