"""Starts of adapters that the training data decides."""

import sys
from collections.abc import Callable
from typing import Any

from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmflora.adapters.calibrated import Calibration
from mmflora.adapters.calibration import calibrate, passes, waiting_layers
from mmflora.checkpoint.gaps import without_wrappers
from mmflora.checkpoint.sharded import any_sharded
from mmflora.registry import HOOKS

from ..first_batches import first_batches, seed_batch, undisturbed
from ..shared_starts import share_starts


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Gives adapters whose start needs data their start, before training.

    The first batches of the run go through the frozen model, in training mode
    and without any optimizer step.  Each adapter gets the statistic that its
    class asks for, averaged over the batches and over all processes.  Norms'
    statistics, random generators and the order of the data are afterwards as
    they were, so that the training itself begins at the first batch.

    Nothing happens where no adapter asks for a statistic, or where all have
    their start: in a resumed run, after an adapter was loaded, in tests.

    Example:
        >>> custom_hooks = [dict(type='mmflora.CalibrationHook')]
    """

    priority = 'HIGH'

    def before_train(self, runner: Any) -> None:
        """Gather the statistics that are missing.

        Raises:
            ValueError: If there is too little data, the settings do not say
                how much to take, or the model is spread over processes.
        """
        model = without_wrappers(runner.model)
        waiting = waiting_layers(model)
        if not waiting:
            return
        _check_whole(runner.model)
        groups: dict[Calibration, dict[str, Any]] = {}
        for name, layer in waiting.items():
            groups.setdefault(layer.adapter.calibration, {})[name] = layer
        model.train()
        for settings, layers in groups.items():
            self._calibrate(runner, model, settings, layers)

    def _calibrate(
        self,
        runner: Any,
        model: nn.Module,
        settings: Calibration | None,
        layers: dict[str, Any],
    ) -> None:
        first = next(iter(layers.values())).adapter
        if not first.by_batches:
            raise ValueError(
                f'{type(first).__name__} has no start yet. {first.remedy()}'
            )
        if settings is None:
            raise ValueError(
                f'{len(layers)} adapters start from statistics of the '
                'training data, but nothing says how many batches to take: '
                'add calibration=dict(batches=8) beside `adapter`.'
            )
        seed, count = int(runner.seed or 0), settings.batches
        rounds = len(passes(layers, settings.gigabytes))
        runner.logger.info(
            f'Calibration: {count} batches go through the frozen model, '
            f'{rounds} times, for the starts of {len(layers)} adapters.'
        )
        with undisturbed(model):
            batches = first_batches(runner, count)
            bar = _Bar(rounds * count)
            calibrate(
                model,
                range(count),
                _loss_of(model, batches, seed),
                settings.gigabytes,
                average=_average,
                progress=bar,
                layers=layers,
            )
        share_starts(layers.values())
        runner.logger.info('Calibration: done; checkpoints hold the starts.')


class _Bar:
    """A bar of progress, in the main process alone."""

    def __init__(self, total: int) -> None:
        main = is_main_process()
        self.bar = ProgressBar(total, file=sys.stdout) if main else None

    def __call__(self) -> None:
        if self.bar is not None:
            self.bar.update()


def _average(tensor: Tensor) -> None:
    all_reduce(tensor, 'mean')


def _loss_of(
    model: Any, batches: list[Any], seed: int
) -> Callable[[int], Tensor]:
    """Return a function from a batch's number to the model's loss."""

    def loss(number: int) -> Tensor:
        seed_batch(seed, number)
        data = model.data_preprocessor(batches[number], True)
        found = model._run_forward(data, mode='loss')
        total: Tensor = model.parse_losses(found)[0]
        return total

    return loss


def _check_whole(model: nn.Module) -> None:
    """Check that this process holds the whole model.

    Raises:
        ValueError: If it does not.
    """
    wrapped = not isinstance(model, DistributedDataParallel)
    inner = without_wrappers(model)
    if any_sharded(inner.parameters()) or (wrapped and inner is not model):
        raise ValueError(
            'Calibration needs the whole model in each process, but '
            f'{type(model).__name__} spreads it. Calibrate in a short run '
            'without this strategy (train_cfg of one epoch), and name its '
            'checkpoint as `load_from`: the starts are in it.'
        )
