"""A run of a study, and what its line in the log says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from .study_file import Method, Study, Task

LOG = 'runs.jsonl'


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        task: What on.
        method: How.
        lr: The learning rate.
        seed: The seed.
        stage: ``'search'``, evaluated on the validation split, or
            ``'final'``, evaluated on the test split.
    """

    task: Task
    method: Method
    lr: float
    seed: int
    stage: str

    @property
    def cell(self) -> str:
        """What names it on the command line."""
        return cell_of(self.task.name, self.method.name, self.seed)

    @property
    def place(self) -> dict[str, Any]:
        """What its line in the log says of it."""
        return dict(
            task=self.task.name,
            method=self.method.name,
            lr=self.lr,
            seed=self.seed,
            stage=self.stage,
        )

    def __str__(self) -> str:
        """Return a name for the progress."""
        return f'{self.cell} lr {self.lr:g} ({self.stage})'


def run_of(study: Study, line: Mapping[str, Any]) -> Run | None:
    """Return the run at a line's place, if the study has it."""
    task = study.tasks.get(line['task'])
    method = study.methods.get(line['method'])
    if task is None or method is None:
        return None
    return Run(task, method, line['lr'], line['seed'], line['stage'])


def cell_of(task: str, method: str, seed: int) -> str:
    """Return what names a run on the command line, but for its rate."""
    return f'{task}/{method}/{seed}'


def is_failed(line: dict[str, Any] | None) -> bool:
    """Return whether a run has failed."""
    return line is not None and line['status'] == 'failed'


def metric_of(line: dict[str, Any], task: Task) -> float:
    """Return the metric of a task; minus infinity where it is no number.

    Raises:
        ValueError: If the evaluator gave no metric of that name.
    """
    metrics = line.get('metrics', {})
    if task.metric not in metrics:
        raise ValueError(
            f"The task '{task.name}' has no metric '{task.metric}'. Its "
            f'evaluator gave {", ".join(metrics) or "none"}.'
        )
    value = metrics[task.metric]
    if value is None:
        return -math.inf if task.higher_is_better else math.inf
    return float(value)


def best_lr(scores: dict[float, float], higher_is_better: bool) -> float:
    """Return the learning rate of the best score, of equals the first."""
    sign = 1 if higher_is_better else -1
    return max(scores, key=lambda lr: sign * scores[lr])


def asked_for(study: Study, patterns: Sequence[str]) -> list[Run]:
    """Return the runs that some patterns ask for, and what these need.

    A final run needs the search of its method, and the training of the task
    whose models it tests.

    Returns:
        By task and method, searches before final runs, whose learning rate is
        NaN: a search gives it.
    """
    runs = []
    for task, method in product(study.tasks.values(), study.methods.values()):
        lrs = study.lrs_of(task)
        # One alone needs no search, and neither does what another task trains.
        searched = lrs if len(lrs) > 1 and not task.trained_as else ()
        stages = [
            *product(searched, study.search_seeds, ['search']),
            *product([math.nan], study.seeds, ['final']),
        ]
        runs += [Run(task, method, *stage) for stage in stages]
    return [run for run in runs if is_asked_for(study, run, patterns)]


def is_asked_for(study: Study, run: Run, patterns: Sequence[str]) -> bool:
    """Return whether some patterns ask for a run, or for one that needs it."""
    tasks = {run.task.name}
    tasks |= {
        task.name
        for task in study.tasks.values()
        if task.trained_as == run.task.name
    }
    seeds = {run.seed, *(study.seeds if run.stage == 'search' else ())}
    return any(
        matches(cell_of(task, run.method.name, seed), patterns)
        for task, seed in product(tasks, seeds)
    )


def matches(cell: str, patterns: Sequence[str]) -> bool:
    """Return whether a cell is one of some patterns; none stand for all."""
    return not patterns or any(fnmatchcase(cell, p) for p in patterns)
