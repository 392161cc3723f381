"""The method of docs/add_a_method.md trains, resumes, tests and merges."""

import os

import pytest
from worked_example import write_example

from .test_method_runs import check_run, commands
from .test_runs import BY_EPOCH


@pytest.mark.slow
def test_a_method_from_outside_runs(workspace, monkeypatch):
    folder = workspace.folder / 'outside'
    folder.mkdir()
    write_example(folder)
    path = os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)
    work = folder / 'run'
    lines = commands(folder / 'config.py', work, BY_EPOCH)
    output = workspace.run_tools(*lines)
    check_run(output, work, 'outer-product', BY_EPOCH, 'coco/segm_mAP')
