"""The finished runs of a study, by task, method and seed."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mmflora.files.json_lines import read_lines

from .current_lines import current_lines
from .equal_runs import refuse_unequal
from .study_file import MEAN, Study, Task
from .study_runs import (
    LOG,
    best_lr,
    cell_of,
    is_asked_for,
    matches,
    metric_of,
    run_of,
)

Values = Mapping[str, Mapping[int, float]]


@dataclass
class StudyResults:
    """What a report is about.

    Attributes:
        study: The study, with the tasks that have a finished run.
        not_begun: The other tasks.
        cells: The lines of the final runs, by task, method and seed.
        lrs: The learning rates: by task and method, the mean score of each
            on the validation split.
        chosen: The learning rate that was chosen, by task and method.
        failed: The lines of the runs that failed.
        only: Patterns of the cells that it is about; none stand for all.
        notes: What a reader must know of the lines.
    """

    study: Study
    not_begun: list[str]
    cells: dict[tuple[str, str], dict[int, dict[str, Any]]]
    lrs: dict[tuple[str, str], dict[float, float]]
    chosen: dict[tuple[str, str], float]
    failed: list[dict[str, Any]]
    only: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def wanted(self) -> int:
        """How many final runs the study asks for, on its tasks begun."""
        study = self.study
        cells = product(study.tasks, study.methods, study.seeds)
        return sum(matches(cell_of(*cell), self.only) for cell in cells)

    @property
    def tasks(self) -> list[Task]:
        """The tasks, in the order of the study."""
        return [*self.study.tasks.values()]

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines of the final runs."""
        return [line for cell in self.cells.values() for line in cell.values()]

    def scale(self, task: Task) -> float:
        """Return 100 for a score between 0 and 1, else 1.

        An error (lower is better) is no part of a whole, and stays.
        """
        values = [
            metric_of(line, task)
            for (name, _), cell in self.cells.items()
            for line in cell.values()
            if name == task.name
        ]
        if task.higher_is_better and all(abs(value) <= 1 for value in values):
            return 100.0
        return 1.0

    def metric(self, task: Task) -> dict[str, dict[int, float]]:
        """Return a task's metric by method and seed, see :meth:`scale`."""
        scale = self.scale(task)
        return self.by_seed(task, lambda line: scale * metric_of(line, task))

    def by_seed(
        self, task: Task, value: Callable[[dict[str, Any]], float]
    ) -> dict[str, dict[int, float]]:
        """Return a value of each line of a task, by method and seed."""
        return {
            name: {
                seed: value(line)
                for seed, line in sorted(
                    self.cells.get((task.name, name), {}).items()
                )
            }
            for name in self.study.methods
        }

    def columns(self) -> dict[str, tuple[Values, bool]]:
        """Return the metrics of the tasks, and their mean.

        Returns:
            By the name of the column, the values by method and seed, and
            whether higher is better.  The mean is over tasks, for each seed
            that a method has in all of them; it is there if there are
            several, which agree on what is better.
        """
        columns: dict[str, tuple[Values, bool]] = {
            task.name: (self.metric(task), task.higher_is_better)
            for task in self.tasks
        }
        ways = {higher for _, higher in columns.values()}
        if len(columns) > 1 and len(ways) == 1:
            means: dict[str, dict[int, float]] = {}
            for name in self.study.methods:
                every = [values[name] for values, _ in columns.values()]
                seeds = set(every[0]).intersection(*every[1:])
                means[name] = {
                    seed: statistics.fmean(one[seed] for one in every)
                    for seed in sorted(seeds)
                }
            columns[MEAN] = means, ways.pop()
        return columns

    def counts(self, *kinds: str) -> dict[str, list[int]]:
        """Return the parameters of some kinds of each method.

        They are one number a task; more where its seeds differ in it.
        """
        return {
            name: [
                count
                for task in self.study.tasks
                for count in self.counts_of(task, name, kinds)
            ]
            for name in self.study.methods
        }

    def counts_of(
        self, task: str, method: str, kinds: Sequence[str]
    ) -> list[int]:
        """Return the different numbers of parameters of a cell's seeds."""
        counts = [
            sum(line['parameters'][kind] for kind in kinds)
            for line in self.cells.get((task, method), {}).values()
        ]
        return sorted(set(counts))


def read_results(study: Study, only: Sequence[str] = ()) -> StudyResults:
    """Read the runs of a study that are finished.

    Args:
        study: The study.
        only: Patterns of the cells to read; methods without any are left out.

    Raises:
        ValueError: If there are none, or they cannot be compared.
    """
    whole, study = study, _with_methods(study, only)
    wanted = [
        line
        for line in read_lines(study.work_dir / LOG)
        if (run := run_of(study, line)) and is_asked_for(study, run, only)
    ]
    # Of the whole study: a budget may be a method that is left out.
    lines, notes = current_lines(whole, wanted)
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in lines:
        place = ('stage', 'task', 'method', 'lr', 'seed')
        last[tuple(line[name] for name in place)] = line
    lrs = _searches(study, last)
    cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    chosen = {}
    for (name, method), scores in lrs.items():
        higher = study.training_of(study.tasks[name]).higher_is_better
        lrs_of = study.lrs_of(study.tasks[name])
        if len(lrs_of) == 1:
            (lr,) = lrs_of
        elif len(scores) == len(lrs_of):
            lr = best_lr(dict(sorted(scores.items())), higher)
        else:
            continue
        chosen[name, method] = lr
        for seed in study.seeds:
            done = last.get(('final', name, method, lr, seed))
            if not matches(cell_of(name, method, seed), only):
                continue
            if done and done['status'] == 'finished':
                cells[name, method][seed] = done
    failed = [
        line
        for line in last.values()
        if line['status'] == 'failed'
        and matches(cell_of(line['task'], line['method'], line['seed']), only)
    ]
    failed += _without_metric(study, cells)
    begun = {name for (name, _), cell in cells.items() if cell}
    if not begun:
        raise ValueError(
            f"'{study.work_dir / LOG}' has no finished run on a test split"
            f'{" of " * bool(only)}{", ".join(only)}. Run the study first: '
            f'python tools/study.py {study.path}'
        )
    results = StudyResults(
        study=replace(
            study,
            tasks={n: task for n, task in study.tasks.items() if n in begun},
        ),
        not_begun=[name for name in study.tasks if name not in begun],
        cells=dict(cells),
        lrs={place: own for place, own in lrs.items() if place[0] in begun},
        chosen=chosen,
        failed=failed,
        only=only,
        notes=notes,
    )
    refuse_unequal(results.study, results.cells)
    return results


def _with_methods(study: Study, only: Sequence[str]) -> Study:
    """Return a study of the methods alone that have a wanted cell."""
    methods = {
        name: method
        for task, (name, method), seed in product(
            study.tasks, study.methods.items(), study.seeds
        )
        if matches(cell_of(task, name, seed), only)
    }
    baselines = tuple(name for name in study.baselines if name in methods)
    return replace(study, methods=methods, baselines=baselines)


def _without_metric(study: Study, cells: Any) -> list[dict[str, Any]]:
    """Take out the runs whose metric is no number, and return them."""
    found = []
    for (name, _), cell in cells.items():
        task = study.tasks[name]
        for seed, line in [*cell.items()]:
            if not math.isfinite(metric_of(line, task)):
                reason = f'its {task.metric} is no number'
                found.append(dict(cell.pop(seed), reason=reason))
    return found


def _searches(
    study: Study, last: Mapping[tuple[Any, ...], dict[str, Any]]
) -> dict[tuple[str, str], dict[float, float]]:
    """Return the mean validation score of each learning rate."""
    scores: dict[tuple[str, str], dict[float, float]] = {}
    for name, task in study.tasks.items():
        for method in study.methods:
            own = scores.setdefault((name, method), {})
            searched = study.training_of(task)
            for lr in study.lrs_of(task):
                lines = [
                    last.get(('search', searched.name, method, lr, seed))
                    for seed in study.search_seeds
                ]
                done = [
                    metric_of(line, searched)
                    for line in lines
                    if line and line['status'] == 'finished'
                ]
                if len(done) == len(study.search_seeds):
                    own[lr] = statistics.fmean(done)
    return scores


def spread(values: Mapping[int, float]) -> tuple[float, float]:
    """Return mean and sample standard deviation over seeds."""
    numbers = [*values.values()]
    if not numbers:
        return math.nan, math.nan
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return statistics.fmean(numbers), deviation
