"""The rank that each iteration of a training draws."""

from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.gaps import without_wrappers
from mmflora.registry import HOOKS


@HOOKS.register_module()
class SampledRankHook(Hook):
    """Draws a rank for each iteration, for methods that train prefixes so.

    These are adapters with ``sampled_ranks`` (DyLoRA, MatryoshkaFLoRA if
    ``sampled``, bottlenecks with ``widths``, VPT with ``counts``).  Layers of
    equal ranks get the same one, those ``per_layer`` one each, which makes
    the model the supernet of a search (NOAH).  It depends on the
    number of the iteration and the seed of the first process alone (others
    may have their own, with ``diff_rank_seed``): all processes draw the same,
    and a resumed run repeats the uninterrupted one.  Validation, tests
    and checkpoints are of the whole rank.

    Nothing happens where no adapter draws ranks.

    Example:
        >>> custom_hooks = [dict(type='mmflora.SampledRankHook')]
    """

    priority = 'HIGH'

    def __init__(self) -> None:
        self._adapters: list[Any] = []
        self._seed = 0

    def before_train(self, runner: Any) -> None:
        """Find the adapters."""
        layers = adapted_modules(without_wrappers(runner.model)).values()
        adapters = (layer.adapter for layer in layers)
        self._adapters = [
            one for one in adapters if getattr(one, 'sampled_ranks', ())
        ]
        seed = torch.tensor(int(runner.seed or 0))
        broadcast(seed)
        self._seed = int(seed)

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Draw a rank, each as likely as another."""
        if not self._adapters:
            return
        key = [self._seed, runner.iter]
        # The first for all layers that share one.
        shared, *own = np.random.default_rng(key).random(
            1 + len(self._adapters)
        )
        for adapter, place in zip(self._adapters, own, strict=True):
            ranks = adapter.sampled_ranks
            place = place if adapter.per_layer else shared
            adapter.prefix = ranks[int(place * len(ranks))]

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Let the whole rank count again."""
        for adapter in self._adapters:
            adapter.prefix = None
