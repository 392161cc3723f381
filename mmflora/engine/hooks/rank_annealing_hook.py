"""Ranks that fall during the training."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.hooks import EMAHook, Hook
from torch import nn

from mmflora.adapters.lower_ranks import LowerRanks
from mmflora.registry import HOOKS

from .step_hook import check_whole, layers_adapted_by


@HOOKS.register_module()
class RankAnnealingHook(Hook):
    """Lowers the rank of LoRA and FLoRA in stages, during training.

    Vulić et al., "LoRA-Squeeze: Simple and Effective Post-Tuning and
    In-Tuning Compression of LoRA Modules" (2026), the in-tuning form: the
    training begins at the rank of the config; at the end of each stage the
    update is replaced by the nearest one of the next rank, and training goes
    on from there.  For LoRA that is the truncated SVD of B A (the paper takes
    a randomized one), for FLoRA the HOSVD of the core.

    The tensors keep their shapes; the components that are dropped are zero
    in all factors.  So their gradients are zero too, and they stay so.  No
    state has to be saved, and a resumed run repeats the uninterrupted one.
    In the end ``tools/adapters.py truncate --rank`` takes the zeros off.

    The factors span other directions after a stage, so that what the
    optimizer knew of the old ones is dropped (the paper does not say what it
    does): moments begin at zero, as at the start.  Averages of the model
    (``EMAHook``) take over the factors.  Stages end between two steps of the
    optimizer, also where gradients are accumulated.

    Args:
        ranks: The ranks after each stage, descending.
        milestones: The iterations at which they begin, ascending; by default
            all stages are equally long.

    Raises:
        ValueError: If ranks or milestones are no such numbers.

    Example:
        >>> custom_hooks = [
        ...     dict(type='mmflora.RankAnnealingHook', ranks=[8, 4])
        ... ]
    """

    priority = 'HIGH'

    def __init__(
        self, ranks: Sequence[int], milestones: Sequence[int] | None = None
    ) -> None:
        self.ranks, self.milestones = list(ranks), milestones
        falling = all(
            a > b for a, b in zip(self.ranks, self.ranks[1:], strict=False)
        )
        if not self.ranks or min(self.ranks) < 1 or not falling:
            raise ValueError(
                'RankAnnealingHook: `ranks` are integers of at least 1 that '
                f'fall, such as [8, 4], got ranks={ranks!r}.'
            )
        given = list(milestones or range(1, len(self.ranks) + 1))
        rising = all(a < b for a, b in zip(given, given[1:], strict=False))
        if len(given) != len(self.ranks) or min(given) < 1 or not rising:
            raise ValueError(
                'RankAnnealingHook: `milestones` are iterations of at least '
                f'1 that rise, one for each of the {len(self.ranks)} ranks, '
                f'got milestones={milestones!r}.'
            )
        self._stages: dict[int, int] = {}
        self._layers: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Find the layers, and set the iterations of the stages.

        Raises:
            ValueError: If there is no layer whose rank can fall, the training
                ends before the last stage begins, the model has several
                optimizers, or it is spread over several processes.
        """
        self._layers = layers_adapted_by(
            'a method whose rank can fall in the training (LoRA, DoRA and '
            'FLoRA)',
            lambda one: isinstance(one, LowerRanks) and one.squeezes(),
            runner,
            self,
            'Take one of these methods',
        )
        name = type(self).__name__
        check_whole(runner, name, name)
        stages, last = len(self.ranks) + 1, runner.max_iters
        given = self.milestones or [
            last * (i + 1) // stages for i in range(len(self.ranks))
        ]
        step = runner.optim_wrapper._accumulative_counts
        places = [-(-place // step) * step for place in given]
        self._stages = dict(zip(places, self.ranks, strict=True))
        if len(self._stages) < len(self.ranks) or max(places) >= last:
            raise ValueError(
                f'RankAnnealingHook: ranks {self.ranks} begin at iterations '
                f'{places}, which the {last} iterations of this training '
                'have no room for. Train longer, or give fewer ranks.'
            )

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Lower the rank where a stage begins."""
        rank = self._stages.get(runner.iter)
        if rank is None:
            return
        state = runner.optim_wrapper.optimizer.state
        for layer in self._layers.values():
            layer.adapter.squeeze(rank)
            for parameter in layer.adapter.parameters():
                broadcast(parameter.data)  # a singular vector's sign is free
                state.pop(parameter, None)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self._restart(hook.ema_model.module)
        runner.logger.info(
            f'Rank {rank} from iteration {runner.iter} on, in '
            f'{len(self._layers)} layers.'
        )

    @torch.no_grad()
    def _restart(self, average: nn.Module) -> None:
        """Let an average go on from the factors as they are now."""
        for name, layer in self._layers.items():
            copies = average.get_submodule(f'{name}.adapter').parameters()
            ours = layer.adapter.parameters()
            for copy, parameter in zip(copies, ours, strict=True):
                copy.copy_(parameter)
