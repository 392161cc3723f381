"""Randomness that a resumed run repeats."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmflora.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds every training iteration by the run's seed, its number and rank.

    Stochastic depth, dropout and the sampling of proposals then depend on the
    iteration alone, so that a run resumed from a checkpoint repeats the
    losses of the uninterrupted one.  Data workers are seeded by MMEngine:
    their augmentations repeat as well where the loop counts iterations, or
    where it counts epochs without ``persistent_workers``.

    Example:
        >>> custom_hooks = [dict(type='mmflora.IterationSeedHook')]
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Seed Python, NumPy and PyTorch."""
        sequence = np.random.SeedSequence(
            [int(runner.seed or 0), runner.iter, get_rank()]
        )
        first, second, third = sequence.generate_state(3)
        random.seed(int(first))
        np.random.seed(int(second))
        torch.manual_seed(int(third))
