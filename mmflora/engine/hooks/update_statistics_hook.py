"""Records how the updates of a run grow."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmflora.adapters import AdaptedLayer, adapted_layers
from mmflora.adapters.update_statistics import (
    UpdateStatistics,
    update_statistics,
)
from mmflora.checkpoint.gaps import without_wrappers
from mmflora.checkpoint.sharded import any_sharded
from mmflora.registry import HOOKS

FILE_NAME = 'update_statistics.csv'
COLUMNS = ('iteration', 'layer', *UpdateStatistics.__dataclass_fields__)


@HOOKS.register_module()
class UpdateStatisticsHook(Hook):
    """Records ‖ΔW‖ and the feature amplification of every adapted layer.

    It writes a row for each layer to ``update_statistics.csv`` in the run's
    log folder, and the means over all layers to the visualizers, as
    ``update/norm``, ``update/relative`` and ``update/amplification``.
    ``tools/adapters.py show RUN --plot FILE`` draws them.  What the numbers
    are says :class:`mmflora.adapters.update_statistics.UpdateStatistics`;
    over the training they are figures 4 and 7 of FLoRA's paper.

    Args:
        interval: Iterations between two records; the first and the last
            iteration are recorded too.
        rank: The number of singular vectors for adapters without factors.
        intruders: How many leading singular vectors of the adapted weight to
            search for intruder dimensions; 0 leaves that costly search out.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> custom_hooks = [
        ...     dict(type='mmflora.UpdateStatisticsHook', interval=200)
        ... ]
    """

    priority = 'VERY_LOW'

    def __init__(
        self, interval: int = 100, rank: int = 16, intruders: int = 0
    ) -> None:
        least = dict(interval=1, rank=1, intruders=0)
        given = dict(interval=interval, rank=rank, intruders=intruders)
        for name, value in given.items():
            if not isinstance(value, int) or value < least[name]:
                raise ValueError(
                    f'UpdateStatisticsHook: {name}={value!r}; it is a whole '
                    f'number, at least {least[name]}.'
                )
        self.interval, self.rank, self.intruders = interval, rank, intruders
        self._layers: dict[str, AdaptedLayer] = {}
        self._file = Path()

    def before_train(self, runner: Any) -> None:
        """Find the layers, and record their start.

        Raises:
            ValueError: If no layer has an update of its weight, or weights
                are spread over several processes.
        """
        model = without_wrappers(runner.model)
        self._layers = adapted_layers(model)
        if not self._layers:
            raise ValueError(
                'UpdateStatisticsHook: no layer of the model has an adapter '
                'of its weight (methods that train parameters of the base, '
                'or blocks beside it, have no ΔW). Leave the hook out.'
            )
        if any_sharded(model.parameters()):
            raise ValueError(
                'UpdateStatisticsHook: the weights are spread over several '
                'processes, and each holds a part alone. Leave the hook out, '
                'and draw the statistics of a checkpoint: tools/adapters.py '
                'show CHECKPOINT --config CONFIG --plot FILE.'
            )
        if is_main_process():
            self._file = Path(runner.log_dir) / FILE_NAME
            if not self._file.exists():
                with self._file.open('w', newline='') as file:
                    csv.writer(file).writerow(COLUMNS)
            print_log(
                f'The statistics of {len(self._layers)} updates go to '
                f"'{self._file}'.",
                logger='current',
            )
            self._record(runner, runner.iter)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Record every ``interval`` iterations, and the last one."""
        last = runner.iter + 1 == runner.max_iters
        due = last or self.every_n_train_iters(runner, self.interval)
        if due and is_main_process():
            self._record(runner, runner.iter + 1)

    def _record(self, runner: Any, iteration: int) -> None:
        found = {
            name: update_statistics(layer, self.rank, self.intruders)
            for name, layer in self._layers.items()
        }
        with self._file.open('a', newline='') as file:
            csv.writer(file).writerows(
                (iteration, name, *asdict(row).values())
                for name, row in found.items()
            )
        names = ['norm', 'relative', 'amplification']
        if self.intruders:
            names.append('intruders')
        runner.visualizer.add_scalars(
            {
                f'update/{name}': sum(getattr(r, name) for r in found.values())
                / len(found)
                for name in names
            },
            step=iteration,
        )
