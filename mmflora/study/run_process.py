"""The process of one run, on processors of its own."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mmflora.version

from .study_file import Resources
from .study_runs import Run


def command_of(folder: Path) -> list[str]:
    """Return the command of a run's process."""
    return [sys.executable, '-m', 'mmflora.study.one_run', str(folder)]


def cpu_groups(resources: Resources) -> list[list[int] | None]:
    """Return the processors of each process.

    Raises:
        ValueError: If there are too few.
    """
    count, size = resources.processes, resources.threads
    if not resources.pin:
        return [None] * count
    cpus = sorted(resources.cpus or os.sched_getaffinity(0))
    if count * size > len(cpus):
        raise ValueError(
            f'resources asks for {count} × {size} processors and there are '
            f'{len(cpus)}. Lower processes or threads, or set pin=False, '
            'which lets runs share them (their times are then no '
            'measurements).'
        )
    return [cpus[size * i : size * (i + 1)] for i in range(count)]


LOCK = 'run.lock'


class RunProcess:
    """The process of one run.

    Args:
        run: The run.
        folder: Its folder.
        lock: What :func:`hold` returned for it; it is the process's from now.
        slot: Which of the processes it is.
        resources: What it may use.
        command: Returns the command for a folder.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        lock: int,
        slot: int,
        resources: Resources,
        command: Callable[[Path], list[str]] = command_of,
    ) -> None:
        # Raises where they are too few, hence before the process starts.
        cpus = cpu_groups(resources)[slot]
        self.run, self.folder, self.slot = run, folder, slot
        self.log = folder / 'output.txt'
        self.began = time.monotonic()
        package = str(Path(mmflora.version.__file__).parents[1])
        paths = [package, os.environ.get('PYTHONPATH', '')]
        environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join(filter(None, paths)),
            'OMP_NUM_THREADS': str(resources.threads),
            'MKL_NUM_THREADS': str(resources.threads),
            'OMP_WAIT_POLICY': 'PASSIVE',
            'GOMP_SPINCOUNT': '0',
        }
        if resources.gpus:
            gpu = resources.gpus[slot % len(resources.gpus)]
            environment['CUDA_VISIBLE_DEVICES'] = str(gpu)
        with open(self.log, 'ab') as output:
            self.process = subprocess.Popen(
                command(folder),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is for the study, which ends its runs.
                start_new_session=True,
                pass_fds=[lock],
            )
        os.close(lock)
        if cpus is not None:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self.process.pid, cpus)

    def end(self) -> None:
        """End the process and those that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(10)
                return
            except subprocess.TimeoutExpired:
                continue

    def reason(self) -> str:
        """Return why it failed: the last thing that it said."""
        text = self.log.read_bytes().decode('utf-8', 'replace')
        lines = [line for line in text.splitlines() if line.strip()]
        code = self.process.returncode
        why = (
            f'killed by signal {-code}' if code < 0 else f'exit status {code}'
        )
        return f'{why}: {lines[-1].strip()[:500]}' if lines else why


def hold(folder: Path) -> int | None:
    """Take the lock of a run, to be handed to its process.

    Whoever inherits it holds it; it ends with the last of them, also if they
    are killed.

    Returns:
        A file descriptor, ``None`` if a process is at work on the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
