"""One image, several tasks, one base."""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, init_default_scope

from mmflora.adapter_files import AdapterFile

from .task_set import TaskSet

Source = tuple[str | Config, str | os.PathLike[str] | AdapterFile]


class MultiTaskInferencer:
    """Predicts for several tasks with one base in memory.

    Args:
        tasks: By name the config and the adapter of each task, or a
            :class:`TaskSet`.
        device: Where to compute; for a :class:`TaskSet`, it is its own.
        base: Where the base is, if elsewhere than the adapters say.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the tasks do not stand on one base, or an adapter does
            not fit its config.

    Example:
        >>> inferencer = MultiTaskInferencer(
        ...     dict(
        ...         things=('mask-rcnn.py', 'things.safetensors'),
        ...         stuff=('upernet.py', 'stuff.safetensors'),
        ...     )
        ... )
        >>> predictions = inferencer('street.jpg')
        >>> predictions['things'].pred_instances, predictions['stuff']
    """

    def __init__(
        self,
        tasks: Mapping[str, Source] | TaskSet,
        device: str = 'cpu',
        base: str | None = None,
    ) -> None:
        if isinstance(tasks, TaskSet):
            self.tasks = tasks
            return
        self.tasks = TaskSet(device)
        for name, (config, adapter) in tasks.items():
            self.tasks.load(name, config, adapter, base)

    def __call__(
        self, image: str | np.ndarray, tasks: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Predict for one image.

        Args:
            image: Its path, or its pixels, shape ``(H, W, 3)``, in BGR.
            tasks: The names of the tasks; by default all.

        Returns:
            By task a ``DetDataSample`` or ``SegDataSample`` of its toolkit.

        Raises:
            FileNotFoundError: If there is no such image.
            ValueError: If a task is not loaded.
        """
        if isinstance(image, str) and not os.path.isfile(image):
            raise FileNotFoundError(
                f"Image not found: '{image}' (looked in "
                f"'{os.path.abspath(image)}')."
            )
        names = self.tasks.names() if tasks is None else list(tasks)
        for name in names:
            self.tasks[name]
        return {name: self._predict(name, image) for name in names}

    def draw(
        self,
        image: str | np.ndarray,
        predictions: Mapping[str, Any],
        out_dir: str | Path,
    ) -> list[Path]:
        """Draw predictions with the visualizers of their toolkits.

        Args:
            image: As for the call.
            predictions: What the call returned.
            out_dir: The folder for ``<task>.png``; it is made if need be.

        Returns:
            The pictures' paths.
        """
        pixels = mmcv.imread(image, channel_order='bgr')
        written = []
        for name, sample in predictions.items():
            model: Any = self.tasks[name].model
            scope = model.cfg.default_scope
            init_default_scope(scope)
            kind = 'SegLocalVisualizer'
            if scope != 'mmseg':
                rotated = scope == 'mmrotate'
                kind = f'{"Rot" if rotated else "Det"}LocalVisualizer'
            visualizer = VISUALIZERS.build(
                dict(type=f'{scope}.{kind}', name=f'mmflora_{name}')
            )
            visualizer.dataset_meta = model.dataset_meta
            path = Path(out_dir, f'{name}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            visualizer.add_datasample(
                name,
                pixels[..., ::-1],
                sample,
                draw_gt=False,
                out_file=str(path),
            )
            written.append(path)
        return written

    def _predict(self, name: str, image: str | np.ndarray) -> Any:
        with self.tasks.using(name) as model, _config_of(model) as config:
            init_default_scope(config.default_scope)
            if config.default_scope == 'mmseg':
                from mmseg.apis import inference_model

                return inference_model(model, image)
            from mmdet.apis import inference_detector

            return inference_detector(model, image)


@contextmanager
def _config_of(model: Any) -> Iterator[Config]:
    """Lend a model a copy of its config, which the toolkits write to.

    Given pixels, they rewrite its test pipeline, which then reads no file.
    """
    config = model.cfg
    model.cfg = copy.deepcopy(config)
    try:
        yield config
    finally:
        model.cfg = config
