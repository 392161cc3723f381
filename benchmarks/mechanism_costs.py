"""What a mechanism costs beside a step: the pass of data, and hooks."""

import logging
import statistics
import time
from types import SimpleNamespace

import torch
from mmengine.hooks import Hook

from benchmarks.measure import Step, interleave
from mmflora.adapters import calibrate
from mmflora.adapters.calibrated import calibrated_layers
from mmflora.memory_estimate.live_bytes import count_step
from mmflora.registry import HOOKS

MANY = 3
"""Batches of the longer of two calibrations."""
STEPS = 10**6
"""Of the training that a hook believes in, so that its stages are far."""
CALLS = ('before_train_iter', 'before_step', 'after_step', 'after_train_iter')
"""What a hook does in a step."""


class CalibrationStep(Step):
    """The calibration of all layers, in the place of a step.

    Args:
        candidate: The model; its adapters get their starts again.
        setting: See :class:`Step`.
        batches: How many times the images go through the model.
    """

    def __init__(self, candidate, setting, batches):
        super().__init__(candidate, setting)
        self.batches = batches

    def run(self):
        """Gather the statistics, and make the starts."""
        calibrate(
            self.candidate,
            range(self.batches),
            lambda _: (self.forward() * self.gradient).sum(),
            layers=calibrated_layers(self.candidate),
        )

    def seconds(self):
        """Run once and return how long it took."""
        self.synchronize()
        start = time.perf_counter()
        self.run()
        self.synchronize()
        return time.perf_counter() - start


def measure_pass(make, setting, repeats, say):
    """Measure a calibration.

    Args:
        make: Builds the model.
        setting: The run's setting.
        repeats: How many rounds count.
        say: Called with a line after each round.

    Returns:
        The median of the seconds of a batch and of what does not depend on
        their number, and the bytes at the peak.
    """
    one, many = (CalibrationStep(make(), setting, n) for n in (1, MANY))
    peak = count_step(one.run, lambda _: None).peak
    times = interleave({'one': one, 'more': many}, repeats, 1, say)
    each = [
        (longer - shorter) / (MANY - 1)
        for shorter, longer in zip(times['one'], times['more'], strict=True)
    ]
    batch = statistics.median(each)
    return dict(
        batch_seconds=batch,
        start_seconds=max(0.0, statistics.median(times['one']) - batch),
        bytes_peak=peak,
    )


class TrainedStep(Step):
    """A step with that of AdamW, and what a hook does around it.

    Time is that of the processor on a CPU: shares of a per cent are lost in
    what else a machine does.

    Args:
        candidate: The model.
        setting: See :class:`Step`.
        hook: The hook's configuration, ``None`` for none.

    Attributes:
        own: Seconds within the hook, of each step.
    """

    def __init__(self, candidate, setting, hook=None):
        super().__init__(candidate, setting)
        self.optimizer = torch.optim.AdamW(candidate.trainable(), lr=1e-6)
        self.runner = SimpleNamespace(
            model=candidate,
            iter=0,
            max_iters=STEPS,
            seed=0,
            hooks=[],
            logger=logging.getLogger(),
            optim_wrapper=SimpleNamespace(
                optimizer=self.optimizer, _accumulative_counts=1
            ),
        )
        self.own = []
        self.hook = Hook()
        if hook is not None:
            self.hook = HOOKS.build(dict(hook, _scope_='mmflora'))
        for name in CALLS:
            call = getattr(self.hook, name, None)
            if call is not None:
                setattr(self.hook, name, self._timed(call))
        self.hook.before_train(self.runner)

    def _clock(self):
        self.synchronize()
        cuda = self.setting.device == 'cuda'
        return time.perf_counter() if cuda else time.process_time()

    def _timed(self, call):
        def timed(*args):
            start = self._clock()
            call(*args)
            self.own[-1] += self._clock() - start

        return timed

    def seconds(self):
        """Run once and return how long it took."""
        self.own.append(0.0)
        start = self._clock()
        self.hook.before_train_iter(self.runner, 0)
        self.backward(self.forward())
        self.optimizer.step()
        self.hook.after_train_iter(self.runner, 0)
        duration = self._clock() - start
        self.clear()
        self.runner.iter += 1
        return duration


def measure_hook(make, setting, hook, repeats, say):
    """Time steps with and without a hook, in turns.

    Args:
        make: Builds the model.
        setting: The run's setting.
        hook: The hook's configuration.
        repeats: How many rounds count.
        say: Called with a line after each round.

    Returns:
        The seconds of all rounds on both sides, and those within the hook.
    """
    warmup = 2
    steps = {
        'with': TrainedStep(make(), setting, hook),
        'without': TrainedStep(make(), setting),
    }
    times = interleave(steps, repeats, warmup, say)
    return dict(times, own=steps['with'].own[warmup:])
