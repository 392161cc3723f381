"""Into which parts the time of training iterations goes."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook

Seconds = tuple[float, float]
"""Seconds that passed, and seconds of processor time."""
STAGES = ('before_train_iter', 'after_train_iter')


def now() -> Seconds:
    """Return both clocks; that of the processor has all threads."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """Return what passed since :func:`now` was called."""
    passed, used = now()
    return passed - start[0], used - start[1]


class Shares:
    """Exclusive times: what runs inside of another share counts for itself.

    Attributes:
        rows: For each iteration the seconds of each share.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Seconds]] = []
        self._open = ['data']
        self._now: dict[str, Seconds] = {}
        self._last = now()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what happens inside for a share."""
        self._note()
        self._open.append(name)
        try:
            yield
        finally:
            self._note()
            self._open.pop()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Count the calls of an object's method for a share."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return inner(*args, **kwargs)

        setattr(owner, method, counted)

    def start(self) -> None:
        """Forget what happened until now."""
        self._now, self._last = {}, now()

    def end_iteration(self) -> None:
        """Close the row of an iteration."""
        self._note()
        self.rows.append(self._now)
        self._now = {}

    def _note(self) -> None:
        passed, used = since(self._last)
        self._last = now()
        before = self._now.get(self._open[-1], (0.0, 0.0))
        self._now[self._open[-1]] = before[0] + passed, before[1] + used


class WatchHook(Hook):
    """Takes the shares of a training: it wraps what the loop calls.

    An iteration begins when the one before has ended.  Until its batch is
    there it is *data*.  Then *forward* is what ``train_step`` does beside
    *backward* and *optimizer*; each hook has a share of its own; *loop* is
    the rest.

    Args:
        shares: Where to count.
    """

    priority = 'LOWEST'

    def __init__(self, shares: Shares) -> None:
        self.shares = shares

    def before_train(self, runner: Any) -> None:
        """Wrap, once all is built."""
        shares, wrapper = self.shares, runner.optim_wrapper
        for hook in runner.hooks:
            if hook is not self:
                for stage in STAGES:
                    shares.wrap(hook, stage, share_of_hook(hook))
        shares.wrap(wrapper, 'backward', 'backward')
        for method in ('step', 'zero_grad'):
            shares.wrap(wrapper, method, 'optimizer')
        shares.wrap(runner.model, 'train_step', 'forward')

    def before_train_epoch(self, runner: Any) -> None:
        """Leave out what came before the first batch is asked for."""
        if 'run_iter' not in vars(runner.train_loop):  # each epoch anew
            self._wrap_iterations(runner.train_loop)
        self.shares.start()

    def _wrap_iterations(self, loop: Any) -> None:
        self.shares.wrap(loop, 'run_iter', 'loop')
        inner = loop.run_iter

        def run_iter(*args: Any, **kwargs: Any) -> None:
            inner(*args, **kwargs)
            self.shares.end_iteration()

        loop.run_iter = run_iter


def share_of_hook(hook: Hook) -> str:
    """Return the name of a hook's share, which says whose it is."""
    package = type(hook).__module__.partition('.')[0]
    return f'hook {package}.{type(hook).__name__}'


def repeat(
    action: Callable[[], Any], times: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each call, and those of the processor.

    Processes that the call has started and waited for are counted too.
    """
    passed, used = [], []
    for _ in range(times):
        start, before = time.perf_counter(), sum(os.times()[:4])
        action()
        used.append(sum(os.times()[:4]) - before)
        passed.append(time.perf_counter() - start)
    return passed, used
