"""A study file: which methods are compared, on what, and with what."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mmflora.config.build import read_config
from mmflora.config.command_line import parse_count

from .study_entries import (
    as_list,
    check_points,
    different_numbers,
    entry_of,
    known_name,
    named_entries,
)

MEAN = 'mean'
"""The column of the mean over tasks; no task has this name."""


@dataclass(frozen=True, eq=False)
class Task:
    """What the methods are compared on.

    Attributes:
        name: Its name, in tables and as a folder.
        config: A config without a method: a path or, as ``mmdet::…``, one of
            a toolkit.
        metric: The metric that counts, as the evaluator names it.
        cfg_options: Changes of the config.
        higher_is_better: Whether a higher metric is better.
        val: The split on which learning rates are chosen: settings of the
            data set of ``val_dataloader``, such as ``dict(ann_file=…)``.
        test: The split that the report is about, likewise.
        trained_as: Another task that trains the same way: its models are
            tested here, with its learning rates, and nothing is trained.
        lrs: The learning rates of the search, if not those of the study.
    """

    name: str
    config: str
    metric: str
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True
    val: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    trained_as: str = ''
    lrs: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class Method:
    """A way to fine-tune.

    Attributes:
        name: Its name, in tables and as a folder.
        method: What :func:`mmflora.peft_config` takes as a method.
        rank: Its rank, if it is not the method's own.
        budget: The number of parameters in the backbone that its rank is
            searched for, such as ``'200k'``, or the method of the study that
            it shall match.
        parts: The parts to adapt, as ``peft_config`` takes them.
        base: The weights to start from, likewise.
        cfg_options: Changes of the config once the method is in it.
        curve: The curve of a sweep that it is a point of.
        at: Its place there: a setting and its value, ``dict(scale=4)``.
    """

    name: str
    method: str | Mapping[str, Any]
    rank: int | None = None
    budget: str | int | float | None = None
    parts: Any = None
    base: str | None = None
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    curve: str = ''
    at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What the runs may use.

    Attributes:
        processes: How many runs there are at once.
        threads: Threads of each.
        cpus: The processors to use, by default all that this process may.
        gpus: The GPUs to use; each process gets one of them, by default all
            see all.
        pin: Whether each process gets processors of its own.
    """

    processes: int = 1
    threads: int = 1
    cpus: Sequence[int] | None = None
    gpus: Sequence[int] | None = None
    pin: bool = True


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        path: The file.
        tasks: By name.
        methods: By name.
        seeds: Each method runs once with each of them.
        lrs: The learning rates of the search; one alone needs none.  A
            task may have others.
        search_seeds: The seeds of the search, by default the first seed.
        lr_key: The place of the learning rate in the configs.
        baselines: The names of the methods that the others are compared
            with, by default all.
        resources: What the runs may use.
        work_dir: Where everything is written.
        pictures: How many images the report shows for each task.
        keep_checkpoints: Whether checkpoints stay once a run is tested.
    """

    path: str
    tasks: Mapping[str, Task]
    methods: Mapping[str, Method]
    seeds: tuple[int, ...]
    lrs: tuple[float, ...]
    search_seeds: tuple[int, ...]
    lr_key: str
    baselines: tuple[str, ...]
    resources: Resources
    work_dir: Path
    pictures: int
    keep_checkpoints: bool

    def training_of(self, task: Task) -> Task:
        """Return the task whose trainings a task tests, often itself."""
        return self.tasks[task.trained_as] if task.trained_as else task

    def lrs_of(self, task: Task) -> tuple[float, ...]:
        """Return the learning rates that are searched on a task."""
        return tuple(self.training_of(task).lrs) or self.lrs


KEYS = ('tasks', *[f.name for f in fields(Study)][2:])
"""What a study file may set; other names are its own variables."""


def read_study(
    path: str,
    options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
) -> Study:
    """Read a study file.

    Args:
        path: A file in MMEngine's syntax of configs.
        options: Settings to change, such as ``{'resources.processes': 4}``.
        work_dir: Where to write, if not where the file says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lacks something, or names something twice, wrongly
            or unknown.
    """
    raw = read_config(path, options)._cfg_dict.to_dict()
    for key in raw.keys() - set(KEYS):
        near = difflib.get_close_matches(key, KEYS, 1, 0.8)
        if near:
            raise ValueError(f"{path}: '{key}' is unknown; is it '{near[0]}'?")
    for key in ('tasks', 'methods', 'seeds', 'lrs'):
        if not raw.get(key) and raw.get(key) != 0:
            raise ValueError(
                f'{path} has no `{key}`. A study needs tasks, methods, seeds '
                'and lrs; docs/study.md shows one.'
            )
    tasks = named_entries(Task, _tasks(raw['tasks'], path), f'{path}: tasks')
    methods = named_entries(
        Method, _methods(raw['methods'], path), f'{path}: methods'
    )
    seeds = different_numbers(raw['seeds'], int, f'{path}: seeds')
    search = raw.get('search_seeds', seeds[:1])
    resources = entry_of(
        Resources, raw.get('resources', {}), f'{path}: resources'
    )
    folder = work_dir or raw.get('work_dir') or f'work_dirs/{Path(path).stem}'
    study = Study(
        path=path,
        tasks=tasks,
        methods=methods,
        seeds=seeds,
        lrs=different_numbers(raw['lrs'], float, f'{path}: lrs'),
        search_seeds=different_numbers(search, int, f'{path}: search_seeds'),
        lr_key=raw.get('lr_key', 'optim_wrapper.optimizer.lr'),
        baselines=tuple(as_list(raw.get('baselines', []))),
        resources=resources,
        work_dir=Path(folder),
        pictures=int(raw.get('pictures', 6)),
        keep_checkpoints=bool(raw.get('keep_checkpoints', False)),
    )
    _check(study)
    return study


def _check(study: Study) -> None:
    for name in study.baselines:
        known_name(name, study.methods, f'{study.path}: the baseline')
    if MEAN in study.tasks:
        raise ValueError(
            f"{study.path}: a task has the name '{MEAN}'; the report has a "
            f"column '{MEAN}', of the mean over tasks. Give it another name."
        )
    for task in study.tasks.values():
        if not task.trained_as:
            continue
        if task.lrs:
            raise ValueError(
                f"{study.path}: the task '{task.name}' has both trained_as "
                'and lrs. It takes the learning rates of the task that '
                'trains; leave out `lrs`.'
            )
        other = known_name(
            task.trained_as, study.tasks, f'{study.path}: trained_as'
        )
        if study.tasks[other].trained_as:
            raise ValueError(
                f"{study.path}: the task '{task.name}' has trained_as="
                f"'{other}', which trains nothing itself. Name "
                f"'{study.tasks[other].trained_as}'."
            )
    check_points(study.methods, study.path)
    for method in study.methods.values():
        if method.budget is None:
            continue
        if method.rank is not None:
            raise ValueError(
                f"{study.path}: the method '{method.name}' has both a rank "
                'and a budget. Leave one out.'
            )
        if isinstance(method.budget, str) and method.budget[:1].isalpha():
            known_name(
                method.budget, study.methods, f'{study.path}: the budget'
            )
        else:
            parse_count(str(method.budget), f'{study.path}: {method.name}')
    resources = study.resources
    if resources.processes < 1 or resources.threads < 1:
        raise ValueError(
            f'{study.path}: resources has processes={resources.processes} and '
            f'threads={resources.threads}; both are at least 1.'
        )


def _tasks(entries: Any, path: str) -> list[Any]:
    """Return the tasks, with numbers as learning rates."""
    result = []
    for entry in as_list(entries):
        if isinstance(entry, Mapping) and entry.get('lrs'):
            where = f'{path}: lrs of the task {entry.get("name")!r}'
            lrs = different_numbers(entry['lrs'], float, where)
            entry = dict(entry, lrs=lrs)
        result.append(entry)
    return result


def _methods(entries: Any, path: str) -> list[Any]:
    """Return the methods, one entry a rank."""
    result = []
    for entry in as_list(entries):
        if isinstance(entry, str):
            entry = dict(method=entry)
        if not isinstance(entry, Mapping):
            raise ValueError(
                f'{path}: methods holds {entry!r}; give a name such as '
                "'flora-r16', or dict(name='…', method='…')."
            )
        entry = dict(entry)
        if isinstance(entry.get('method'), str):
            entry.setdefault('name', Path(entry['method']).stem)
        ranks = entry.pop('ranks', None)
        if ranks is None:
            result.append(entry)
            continue
        for rank in as_list(ranks):
            name = f'{entry.get("name")}-r{rank}'
            point = dict(curve=entry.get('name'), at=dict(rank=rank))
            result.append({**point, **entry, 'name': name, 'rank': rank})
    return result
