"""Runs a function in a child process, with limits of time and memory."""

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_in_child(
    function: Callable[[], dict[str, Any]],
    seconds: int,
    gigabytes: float,
    verbose: bool = False,
) -> dict[str, Any]:
    """Run a function in a copy of this process; a crash of it is a result.

    What the parent has imported is there, so that a child starts in a moment.

    Args:
        function: Returns what JSON can hold.
        seconds: How long it may take.
        gigabytes: How much memory it may allocate.
        verbose: Whether what it prints is seen, with tracebacks.

    Returns:
        What the function returned, and ``seconds`` that it took; or
        ``error``, ``kind`` (the class of the exception) and ``where`` (the
        last lines of code of its traceback).
    """
    start = time.monotonic()
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        _run(function, write, seconds, gigabytes, verbose)
    os.close(write)
    with os.fdopen(read, 'rb') as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    try:
        result = json.loads(text)
    except ValueError:
        result = dict(error=_death(status, seconds), kind='Killed', where=[])
    result['seconds'] = round(time.monotonic() - start, 2)
    return result


def _run(
    function: Callable[[], dict[str, Any]],
    write: int,
    seconds: int,
    gigabytes: float,
    verbose: bool,
) -> None:
    """Run the function, write its result, and end the process."""
    gc.disable()  # it would walk through all that the parent has imported
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        most = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        if not verbose:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
        result = function()
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        result = dict(
            error=str(error),
            kind=type(error).__name__,
            where=[f'{_short(f.filename)}:{f.lineno}' for f in frames],
        )
    try:
        with os.fdopen(write, 'wb') as pipe:
            pipe.write(json.dumps(result).encode())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _short(path: str) -> str:
    """Return where a file stands in its package, wherever that stands."""
    for folder in ('site-packages/', f'{ROOT}/', 'lib/'):
        if folder in path:
            return path.rpartition(folder)[2]
    return path.rpartition('/')[2]


def _death(status: int, seconds: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f'it took longer than {seconds} s'
    if code < 0:
        return f'the process died of {signal.Signals(-code).name}'
    return f'the process ended with {code}, without a result'
