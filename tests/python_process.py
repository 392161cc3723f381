"""Python files run as processes that have all modules loaded already.

A new process imports PyTorch and the toolkits for seven seconds, longer than
most runs of the tests take.  These are forked from one that has done so and
nothing else, with a folder, an environment and an output of their own.  (Not
from that of the tests: after a backward pass PyTorch allows none in a fork.)

It hides what a tool forgets to import; tests of that ask for a new process.
"""

import io
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import torch

WAITING = 600
HERE = Path(__file__).parent


class PythonProcess:
    """A Python file or module that runs in a process of its own.

    Args:
        words: The file, or ``-m`` and a module, and its arguments.
        folder: Where it runs.
        output: The file that gets what it prints.
        environment: Its whole environment.
        new: Start a new process, which imports everything by itself.
    """

    def __init__(self, words, folder, output, environment, new=False):
        self.output = Path(output)
        self.output.touch()
        words = [str(word) for word in words]
        # A GPU that is in use does not survive a fork.
        if new or torch.cuda.is_available():
            with self.output.open('wb') as file:
                self._process = subprocess.Popen(
                    [sys.executable, *words],
                    cwd=folder,
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            return
        arguments = words, str(folder), str(output), dict(environment)
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['loaded_modules'])
        self._process = context.Process(target=_run, args=arguments)
        # The first start makes the process to fork from.  No child needs the
        # main module, which is that of the tests.
        main = sys.modules['__main__']
        paths = f'{HERE}:{HERE.parent}:{os.environ.get("PYTHONPATH", "")}'
        with mock.patch.dict(os.environ, PYTHONPATH=paths):
            sys.modules['__main__'] = types.ModuleType('__main__')
            try:
                self._process.start()
            finally:
                sys.modules['__main__'] = main

    def is_alive(self):
        """Return whether it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return self._process.is_alive()

    def kill(self):
        """End it by SIGKILL, which no program can catch."""
        self._process.kill()
        self.finish()

    def finish(self):
        """Wait; return the exit status and what was printed."""
        if isinstance(self._process, subprocess.Popen):
            code = self._process.wait(WAITING)
        else:
            self._process.join(WAITING)
            code = self._process.exitcode
            if code is None:
                self._process.kill()
                raise TimeoutError(f'no end after {WAITING} s')
        return code, self.output.read_text(errors='replace')


def free_port():
    """Return the number of a port that nobody uses, for processes to meet."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def _run(words, folder, output, environment):
    """Run in the child; its end is that of the process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(file, number)
        raw = io.FileIO(number, 'w', closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
        setattr(sys, name, stream)
    paths = environment.get('PYTHONPATH', '').split(os.pathsep)
    sys.path[:0] = [str(Path(folder, path)) for path in paths if path]
    if words[0] == '-m':
        sys.path.insert(0, folder)
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        sys.argv = words
        runpy.run_path(words[0], run_name='__main__')
