"""Python files run as processes that have the modules of the tests loaded.

A new process imports PyTorch and the toolkits for seven seconds, longer than
most runs of the tests take.  A forked one starts with what is there, in its
own folder, with its own environment and output.  What earlier tests may have
left is dropped: named instances of MMEngine, filters of warnings, threads of
OpenCV.  A CUDA context does not survive a fork, so where there is a GPU the
process is a new one.

What a tool itself imports is hidden by what the tests have imported; tests of
that ask for a new process.
"""

import io
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import torch

WAITING = 600


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
        words = [str(word) for word in words]
        with self.output.open('wb') as file:
            if new or torch.cuda.is_available():
                self._process = subprocess.Popen(
                    [sys.executable, *words],
                    cwd=folder,
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
                return
            self._process = multiprocessing.get_context('fork').Process(
                target=_run, args=(words, folder, file.fileno(), environment)
            )
            self._process.start()

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
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(output, number)
        raw = io.FileIO(number, 'w', closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
        setattr(sys, name, stream)
    _forget()
    paths = environment.get('PYTHONPATH', '').split(os.pathsep)
    sys.path[:0] = [str(Path(folder, path)) for path in paths if path]
    if words[0] == '-m':
        sys.path.insert(0, str(folder))
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        sys.argv = words
        runpy.run_path(words[0], run_name='__main__')


def _forget():
    """Drop what a new process does not have."""
    import cv2
    from mmengine.utils import ManagerMixin

    cv2.setNumThreads(0)  # its threads are not there
    warnings.resetwarnings()
    warnings.simplefilter('ignore', DeprecationWarning)
    managers = [ManagerMixin]
    while managers:
        manager = managers.pop()
        managers += manager.__subclasses__()
        vars(manager).get('_instance_dict', {}).clear()
