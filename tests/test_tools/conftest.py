import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from python_process import PythonProcess

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'


class Workspace:
    """A working directory with small data and a base, and how to run there."""

    def __init__(self, folder):
        self.folder = folder
        self.started = 0

    def run(self, *command, code=0, **environment):
        """Run a command; return what it printed."""
        # The scripts start the `python` of the environment that is active.
        path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, 'PATH': path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stdout[-6000:]
        return done.stdout

    def start(self, *words, new=False, **environment):
        """Start a Python file, see :class:`PythonProcess`."""
        self.started += 1
        return PythonProcess(
            words,
            self.folder,
            self.folder / f'output_{self.started}.txt',
            {**os.environ, **environment},
            new,
        )

    def run_tools(self, *commands, new=False):
        """Run tools in one process; return what each printed."""
        words = [
            [str(ROOT / 'tools' / tool), *map(str, rest)]
            for tool, *rest in commands
        ]
        session = ROOT / 'tests/test_tools/session.py'
        code, output = self.start(session, json.dumps(words), new=new).finish()
        assert code == 0, output[-6000:]
        # Bars of progress have such arrows, too.
        return re.split(r'(?<!>)>>> (?=\S+\.py )', output)[1:]


@pytest.fixture(scope='session')
def workspace(tmp_path_factory):
    """Small data of the target domain, and a base that nobody trained."""
    from demo.shapes import write_shapes
    from mmflora.models import ConvNeXt

    folder = tmp_path_factory.mktemp('workspace')
    write_shapes(folder / 'data/shapes', 'target', num_train=8, num_val=4)
    torch.manual_seed(0)
    base = ConvNeXt('convnextv2_atto').state_dict()
    (folder / 'work_dirs/shapes_base').mkdir(parents=True)
    torch.save(
        dict(state_dict={f'backbone.{key}': base[key] for key in base}),
        folder / 'work_dirs/shapes_base/base.pth',
    )
    return Workspace(folder)


@pytest.fixture(scope='session', params=['train', 'test'])
def any_tool(request):
    return load_tool(request.param)


@pytest.fixture(scope='session')
def train_tool():
    return load_tool('train')


@pytest.fixture(scope='session')
def test_tool():
    return load_tool('test')


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Run a tool in this process; return what it printed, out and err."""

    def run(tool, *words):
        words = [tool.__name__, *map(str, words)]
        monkeypatch.setattr(sys, 'argv', words)
        tool.main()
        return capsys.readouterr()

    return run


def refused(run, *words):
    """Check that a command line ends in an error; return the error."""
    with pytest.raises(SystemExit) as error:
        run(*words)
    message = error.value.code
    assert message.startswith('error: ')
    return message


def load_tool(name):
    spec = importlib.util.spec_from_file_location(
        f'{name}_tool', ROOT / 'tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
