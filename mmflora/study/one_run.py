"""One run of a study, in a process of its own.

    python -m mmflora.study.one_run FOLDER

The folder holds ``run.json``, which says what to do, and ``config.py``.  A
training that was interrupted goes on; one that has ended is not repeated.
"""

import copy
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from mmengine.config import Config

from mmflora.config.build import build_runner, read_config, register_toolkit
from mmflora.files.json_lines import append_line
from mmflora.files.training_checkpoints import find_newest

from .first_values import shared_first_values
from .image_scores import ImageScoresHook
from .run_configs import versions
from .run_measures import MeasuresHook, processor_name
from .split_data import evaluated_on


def run_one(folder: Path) -> dict[str, Any]:
    """Train as a folder says, evaluate once, and note what came of it.

    Args:
        folder: The folder of the run.

    Returns:
        The line of the run.
    """
    spec = json.loads((folder / 'run.json').read_text())
    cfg = read_config(str(folder / 'config.py'))
    # That of another task, if this one tests its models.
    trained = Path(spec['training'])
    trained.mkdir(parents=True, exist_ok=True)
    with FileLock(trained / 'training.lock'):
        measured = (trained / 'training.json').is_file()
        if not measured or newest_checkpoint(trained) is None:
            values, frozen = Path(spec['first_values']), Path(spec['frozen'])
            train(cfg, trained, values, frozen)
    split = 'val' if spec['stage'] == 'search' else 'test'
    metrics = evaluate(cfg, folder, trained, split, spec['pictures'])
    line = dict(
        spec['line'],
        status='finished',
        metrics=metrics,
        **json.loads((trained / 'start.json').read_text()),
        **json.loads((trained / 'training.json').read_text()),
        seconds=round(time.time() - spec['began'], 1),
        versions=versions(),
        machine=machine(),
        finished=time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    )
    append_line(Path(spec['log']), line)
    return line


def train(cfg: Config, folder: Path, values: Path, frozen: Path) -> None:
    """Train, from the start or from the last checkpoint."""
    cfg = copy.deepcopy(cfg)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.work_dir = str(folder / 'training')
    first = {}
    if can_resume(folder):
        cfg.resume, cfg.load_from = True, None
    else:
        reference = read_config(str(frozen))
        reference.val_cfg = reference.val_dataloader = None
        reference.test_cfg = reference.test_dataloader = None
        reference.val_evaluator = reference.test_evaluator = None
        reference.work_dir = str(folder / 'first')
        first = shared_first_values(reference, values)
    runner = build_runner(cfg)
    runner.register_hook(MeasuresHook(folder, first))
    runner.train()


def can_resume(folder: Path) -> bool:
    """Return whether a training goes on from a checkpoint.

    One from before the start was noted is of an iteration or two: the
    training begins again, as nothing else could hash the first batches.
    """
    noted = (folder / 'start.json').is_file()
    return noted and newest_checkpoint(folder) is not None


def newest_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint of a training.

    Returns:
        ``None`` where there is none, or damaged ones alone: the training
        then starts at the beginning.
    """
    try:
        return find_newest(folder / 'training')
    except ValueError:
        return None


def evaluate(
    cfg: Config, folder: Path, trained: Path, split: str, pictures: bool
) -> dict[str, float]:
    """Evaluate the end of a training on a split, as ``tools/test.py`` does.

    Args:
        cfg: The config of the run.
        folder: The folder of the run.
        trained: The folder of its training.
        split: ``'val'`` or ``'test'``.
        pictures: Whether to keep the predictions, not their scores alone.
    """
    cfg = evaluated_on(cfg, split)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = None
    cfg.param_scheduler = None
    cfg.work_dir = str(folder / split)
    register_toolkit(cfg)
    cfg.load_from, cfg.resume = newest_checkpoint(trained), False
    if cfg.load_from is None:
        raise ValueError(
            f"There is no checkpoint in '{trained / 'training'}'. The config "
            'needs a checkpoint hook (default_hooks.checkpoint).'
        )
    runner = build_runner(cfg)
    if split == 'test':
        path = folder / 'images.json.gz'
        runner.register_hook(ImageScoresHook(path, pictures))
    metrics = runner.test()
    return {key: float(value) for key, value in metrics.items()}


def machine() -> dict[str, Any]:
    """Return what a run's time and memory depend on."""
    import torch

    found = dict(
        system=platform.platform(terse=True),
        processor=processor_name(),
        # What its sums are rounded by, which one name leaves open.
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        cpus=sorted(os.sched_getaffinity(0)),
    )
    if torch.cuda.is_available():
        found['gpu'] = torch.cuda.get_device_name()
    return found


if __name__ == '__main__':
    run_one(Path(sys.argv[1]))
