"""Runs of a study, several at once, each on processors of its own."""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mmflora.files.json_lines import append_line

from .run_plan import StudyPlan
from .run_process import RunProcess, command_of, cpu_groups, hold
from .study_runs import Run, is_failed, metric_of

POLL_SECONDS = 0.2


class StudyRunner:
    """Does the runs of a study that are missing.

    Args:
        plan: The runs.
        say: Where progress goes.
        command: Returns the command of a run's process, for its folder.
    """

    def __init__(
        self,
        plan: StudyPlan,
        say: Callable[[str], None] = print,
        command: Callable[[Path], list[str]] = command_of,
    ) -> None:
        self.plan = plan
        self.say = say
        self.command = command
        self.running: list[RunProcess] = []
        self.patterns: Sequence[str] = ()

    def run(self, patterns: Sequence[str] = (), retry: bool = False) -> int:
        """Do the missing runs.

        Args:
            patterns: Leave out runs that none of these asks for, see
                :func:`mmflora.study.study_runs.asked_for`.
            retry: Repeat those that failed.

        Returns:
            How many have failed.

        Raises:
            ValueError: If an evaluator gives no such metric as a task names,
                there are fewer processors than the study asks for, or no
                run matches the patterns.
        """
        cpu_groups(self.plan.study.resources)
        self.plan.totals(patterns)
        tried: set[str] = set()
        self.patterns = patterns
        with _ended_by_signals():
            try:
                while self._step(retry, tried):
                    time.sleep(POLL_SECONDS)
            finally:
                for process in self.running:
                    process.end()
        lines = self.plan.lines()
        return sum(
            is_failed(lines.get(self.plan.key(run)))
            for run in self._asked_for(lines)
        )

    def _asked_for(self, lines: dict[str, Any]) -> list[Run]:
        """Return the runs that can be named by now and are asked for."""
        return list(self.plan.runs(lines, self.patterns))

    def _step(self, retry: bool, tried: set[str]) -> bool:
        """Note what has ended, start what can be; return whether to go on."""
        for process in [*self.running]:
            if process.process.poll() is not None:
                self.running.remove(process)
                self._note(process)
        resources = self.plan.study.resources
        slots = {*range(resources.processes)}
        slots -= {process.slot for process in self.running}
        waiting = False
        if slots:
            for run in self._missing(retry, tried):
                lock = hold(self.plan.folder(run))
                if lock is None:
                    waiting = True  # another study is at work on it
                    continue
                tried.add(self.plan.key(run))
                if self._ended(run, retry):
                    os.close(lock)  # another study has just done it
                    continue
                folder, slot = self.plan.prepare(run), slots.pop()
                self.running.append(
                    RunProcess(
                        run, folder, lock, slot, resources, self.command
                    )
                )
                if not slots:
                    break
        return bool(self.running) or waiting

    def _missing(self, retry: bool, tried: set[str]) -> Iterator[Run]:
        for run in self._asked_for(self.plan.lines()):
            if self.plan.key(run) not in tried and not self._ended(run, retry):
                yield run

    def _ended(self, run: Run, retry: bool) -> bool:
        """Return whether a run is in the log, and not to be repeated."""
        line = self.plan.lines().get(self.plan.key(run))
        return line is not None and not (retry and is_failed(line))

    def _note(self, process: RunProcess) -> None:
        """Say what came of a run; note it, if it could not itself."""
        plan, run = self.plan, process.run
        lines = plan.lines()
        line = lines.get(plan.key(run))
        seconds = time.monotonic() - process.began
        failed = process.process.returncode != 0 or line is None
        if failed:
            reason = process.reason()
            append_line(
                plan.log,
                dict(
                    key=plan.key(run),
                    **run.place,
                    status='failed',
                    reason=reason,
                    folder=str(
                        process.folder.relative_to(
                            plan.study.work_dir.resolve()
                        )
                    ),
                    log=str(process.log),
                    seconds=round(seconds, 1),
                    versions=plan.versions,
                ),
            )
            what = f'FAILED, {reason}\n    its log: {process.log}'
        else:
            metric = run.task.metric
            value = metric_of(line or {}, run.task)
            what = f'{metric} {value:.4g} in {_duration(seconds)}'
        lines = plan.lines()
        if not failed and not plan.study.keep_checkpoints:
            drop_checkpoints(plan, run, lines)
        self.say(f'{self._place(lines)} {run}: {what}{self._left(lines)}')

    def _done(self, lines: dict[str, Any]) -> list[tuple[Run, Any]]:
        """Return the runs that have ended and were noted, with their lines."""
        running = {process.run for process in self.running}
        return [
            (run, line)
            for run in self._asked_for(lines)
            if (line := lines.get(self.plan.key(run))) and run not in running
        ]

    def _place(self, lines: dict[str, Any]) -> str:
        total = sum(self.plan.totals(self.patterns).values())
        return f'[{len(self._done(lines)):>{len(str(total))}}/{total}]'

    def _left(self, lines: dict[str, Any]) -> str:
        """Return about how long the rest takes, by what each task took."""
        done = self._done(lines)
        times = defaultdict(list)
        for run, line in done:
            times[run.task.name].append(line['seconds'])
        every = [second for items in times.values() for second in items]
        rest = 0.0
        for task, total in self.plan.totals(self.patterns).items():
            known = times[task] or every
            rest += (total - len(times[task])) * sum(known) / len(known)
        if rest <= 0:
            return ''
        rest /= self.plan.study.resources.processes
        return f'; about {_duration(rest)} left'


def drop_checkpoints(
    plan: StudyPlan, run: Run, lines: dict[str, dict[str, Any]]
) -> None:
    """Remove the checkpoints that no run of the study needs any more.

    They are those that all their final runs have tested, and those of other
    learning rates than the chosen one.
    """
    study, method = plan.study, run.method.name
    chosen = plan.chosen_lr(run.task, run.method, lines)
    if chosen is None:
        return
    task = study.training_of(run.task)
    testing = {
        other.name
        for other in study.tasks.values()
        if study.training_of(other) is task
    }
    finished = [
        line
        for line in lines.values()
        if line['task'] in testing
        and line['method'] == method
        and line['status'] == 'finished'
        # A test of other settings had another checkpoint.
        and plan.is_current(line)
    ]
    for line in finished:
        if line['task'] != task.name:
            continue
        done = {
            other['task']
            for other in finished
            if (other['stage'], other['seed']) == ('final', line['seed'])
        }
        if line['lr'] != chosen or testing <= done:
            folder = plan.study.work_dir / line['folder'] / 'training'
            for path in folder.glob('*.pth'):
                path.unlink(missing_ok=True)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 120 else f'{minutes / 60:.1f} h'


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a SIGTERM end the study as a Ctrl-C does."""

    def stop(*_: Any) -> IO[str]:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
