"""Which runs a study needs, and which of them are there."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from mmflora.files.atomic import write_text
from mmflora.files.json_lines import read_lines

from .run_configs import StudyConfigs, config_text, fingerprint, versions
from .study_file import Method, Study, Task
from .study_runs import (
    LOG,
    Run,
    asked_for,
    best_lr,
    is_failed,
    metric_of,
    run_of,
)


class StudyPlan:
    """The runs of a study, and what came of them.

    Args:
        study: The study.

    Attributes:
        supposed: Lines, by their keys, that count as if the log had them.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.configs = StudyConfigs(study)
        self.log = study.work_dir / LOG
        self.versions = versions()
        self.supposed: dict[str, dict[str, Any]] = {}
        self._state: tuple[int, int] | None = None
        self._lines: dict[str, dict[str, Any]] = {}
        self._keys: dict[Run, str] = {}
        self._hashes: dict[Any, str] = {}

    def check(self, patterns: Sequence[str] = ()) -> None:
        """Make every config once, so that an error shows before any run.

        Args:
            patterns: Those of the cells alone that these ask for.

        Raises:
            ValueError: If two cells have the same config, and so one run.
        """
        cells: dict[str, str] = {}
        for task, method in self.pairs(patterns):
            cfg = self.configs.method(task, method)
            cell = f'{task.name}/{method.name}'
            if task.trained_as:
                continue
            same = cells.setdefault(fingerprint(cfg.to_dict()), cell)
            if same != cell:
                raise ValueError(
                    f"{self.study.path}: '{cell}' is the same as "
                    f"'{same}', setting by setting, so that it would be "
                    'compared with itself. Leave one of them out.'
                )

    def pairs(self, patterns: Sequence[str] = ()) -> list[tuple[Task, Method]]:
        """Return each task with each method, if patterns ask for a run."""
        runs = asked_for(self.study, patterns)
        return list(dict.fromkeys((run.task, run.method) for run in runs))

    def lines(self) -> dict[str, dict[str, Any]]:
        """Return the last line of each run, by its key.

        The log is read again only if it has changed: this is asked for many
        times a second, on processors where runs are measured.
        """
        stat = self.log.stat() if self.log.is_file() else None
        state = stat and (stat.st_size, stat.st_mtime_ns)
        if state != self._state:
            self._state = state
            self._lines = {line['key']: line for line in read_lines(self.log)}
        if not self.supposed:
            return self._lines
        return {**self._lines, **self.supposed}

    def key(self, run: Run) -> str:
        """Return what identifies a run: config, seed, versions, stage.

        A task that tests what another one trains may have its config, and
        another metric: its name counts, too.
        """
        if run not in self._keys:
            name = [run.task.name] if run.task.trained_as else []
            self._keys[run] = fingerprint([self._hash(run), run.stage, *name])
        return self._keys[run]

    def _hash(self, run: Run) -> str:
        """Return a hash of a run's config, with the versions."""
        place = run.task, run.method, run.lr, run.seed
        if place not in self._hashes:
            cfg = self.configs.run(*place)
            self._hashes[place] = fingerprint([cfg.to_dict(), self.versions])
        return self._hashes[place]

    def is_current(self, line: Mapping[str, Any]) -> bool:
        """Return whether a line is of the study with its settings of now."""
        run = run_of(self.study, line)
        return run is not None and self.key(run) == line['key']

    def runs(
        self, lines: dict[str, dict[str, Any]], patterns: Sequence[str] = ()
    ) -> Iterator[Run]:
        """Yield the runs that can be named by now, searches first.

        Args:
            lines: What :meth:`lines` returned.
            patterns: Those alone that these ask for.  The data of other tasks
                may be missing.
        """
        study = self.study
        asked = asked_for(study, patterns)
        for seed in study.search_seeds:
            for run in asked:
                if run.stage == 'search' and run.seed == seed:
                    yield run
        for seed in study.seeds:
            for run in asked:
                if run.stage != 'final' or run.seed != seed:
                    continue
                chosen = self.chosen_lr(run.task, run.method, lines)
                if chosen is None:
                    continue
                final = replace(run, lr=chosen)
                if self._is_trained(final, lines):
                    yield final

    def training(self, run: Run) -> Run:
        """Return the run that trains what a run tests, often itself."""
        return replace(run, task=self.study.training_of(run.task))

    def _is_trained(self, run: Run, lines: dict[str, dict[str, Any]]) -> bool:
        """Return whether a run trains itself, or another one has done so."""
        if not run.task.trained_as:
            return True
        line = lines.get(self.key(self.training(run)))
        return line is not None and not is_failed(line)

    def totals(self, patterns: Sequence[str] = ()) -> dict[str, int]:
        """Return how many runs each task has in the end.

        Args:
            patterns: Count those alone that these ask for.

        Raises:
            ValueError: If they ask for none.
        """
        study = self.study
        counts = dict.fromkeys(study.tasks, 0)
        for run in asked_for(study, patterns):
            counts[run.task.name] += 1
        if not any(counts.values()):
            raise ValueError(
                f'The study has no cell --only {" ".join(patterns)}. Cells '
                'are TASK/METHOD/SEED, of the tasks '
                f'{", ".join(study.tasks)}, the methods '
                f'{", ".join(study.methods)} and the seeds '
                f'{", ".join(map(str, study.seeds))}.'
            )
        return counts

    def chosen_lr(
        self, task: Task, method: Method, lines: dict[str, dict[str, Any]]
    ) -> float | None:
        """Return the best learning rate on the validation split.

        Of equal ones it is the smallest; ``None`` while searches are missing.
        """
        lrs, seeds = self.study.lrs_of(task), self.study.search_seeds
        task = self.study.training_of(task)
        if len(lrs) == 1:
            return lrs[0]
        scores = {}
        for lr in sorted(lrs):
            found = [
                lines.get(self.key(Run(task, method, lr, seed, 'search')))
                for seed in seeds
            ]
            if any(is_failed(line) for line in found):
                return None
            values = [metric_of(line, task) for line in found if line]
            if len(values) < len(seeds):
                return None
            scores[lr] = statistics.fmean(values)
        return best_lr(scores, task.higher_is_better)

    def outdated(
        self, lines: dict[str, dict[str, Any]], patterns: Sequence[str] = ()
    ) -> dict[Run, dict[str, Any]]:
        """Return what was finished under other settings or versions.

        Args:
            lines: What :meth:`lines` returned.
            patterns: Of those runs alone that these ask for.
        """
        runs = self.runs(lines, patterns)
        wanted = {tuple(run.place.values()): run for run in runs}
        found: dict[Run, dict[str, Any]] = {}
        for line in lines.values():
            run = wanted.get(tuple(line[name] for name in _PLACE))
            if run and not is_failed(line) and self.key(run) not in lines:
                found[run] = line
        return found

    def identity(self, run: Run) -> dict[str, str]:
        """Return the hashes of a run in its line of the log."""
        return dict(
            key=self.key(run),
            config=self._hash(run),
            task_config=fingerprint(self.configs.task(run.task).to_dict()),
        )

    def folder(self, run: Run, root: Path | None = None) -> Path:
        """Return the folder of a run, see :meth:`prepare`.

        A search and a final run with the same config share it.
        """
        return (
            (root or self.study.work_dir)
            .resolve()
            .joinpath(
                *('runs', run.task.name, run.method.name),
                f'lr{run.lr:g}-seed{run.seed}-{self._hash(run)[:8]}',
            )
        )

    def prepare(self, run: Run, root: Path | None = None) -> Path:
        """Write what the process of a run needs.

        Args:
            run: The run.
            root: Where, by default in the study's work directory.

        Returns:
            The folder of the run.
        """
        study, folder = self.study, self.folder(run, root)
        root = (root or study.work_dir).resolve()
        cfg = self.configs.run(run.task, run.method, run.lr, run.seed)
        # What all methods of the task and seed have in common.
        frozen = self.configs.frozen(run.task, run.method, run.seed)
        common = fingerprint([frozen.to_dict(), self.versions])
        start = root / 'first' / f'{run.task.name}-{run.seed}-{common[:8]}'
        start.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{start}.py.lock'):  # several studies share it
            # Names may have dots, which with_suffix would cut off.
            write_text(Path(f'{start}.py'), config_text(frozen))
        write_text(folder / 'config.py', config_text(cfg))
        line = dict(
            **self.identity(run),
            **run.place,
            folder=str(folder.relative_to(root)),
            command=f'python tools/study.py {study.path} --repeat {run.cell}',
        )
        spec = dict(
            line=line,
            stage=run.stage,
            log=str(root / LOG),
            first_values=f'{start}.pth',
            frozen=f'{start}.py',
            pictures=run.seed == study.seeds[0] and study.pictures > 0,
            training=str(self.folder(self.training(run), root)),
            began=time.time(),
        )
        write_text(folder / 'run.json', json.dumps(spec))
        return folder


_PLACE = ('task', 'method', 'lr', 'seed', 'stage')
