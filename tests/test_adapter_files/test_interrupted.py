"""A kill or a full disk leaves the last good file."""

import errno
import os
import time
from pathlib import Path

import pytest
import torch
from python_process import PythonProcess

from mmflora.adapter_files import (
    AdapterFile,
    read_adapter,
    write_adapter,
    write_checkpoint,
)

from .conftest import same

ROOT = Path(__file__).parents[2]
# Stops for good at the n-th call of one of the functions that writing needs.
KILLED = """
import os, sys, time
from mmflora.adapter_files import read_adapter, write_adapter
adapter = read_adapter(sys.argv[1])
adapter.config['metrics'] = {'new': 1.0}
adapter.tensors = {key: value + 1 for key, value in adapter.tensors.items()}
name, left = sys.argv[3], int(sys.argv[4])
real = getattr(os, name)
def stop(*args):
    global left
    left -= 1
    if left:
        return real(*args)
    print('stopped', flush=True)
    time.sleep(60)
setattr(os, name, stop)
write_adapter(adapter, sys.argv[2])
"""
FORMS = ['adapter', 'adapter.safetensors']


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ('form', 'call', 'count', 'new'),
    [
        slow('adapter.safetensors', 'fsync', 1, False),
        ('adapter.safetensors', 'replace', 1, False),
        slow('adapter', 'fsync', 1, False),
        slow('adapter', 'replace', 1, False),
        # The tensors are in place, the readable description is the old one.
        slow('adapter', 'fsync', 2, True),
        ('adapter', 'replace', 2, True),
    ],
)
def test_kill_while_writing(adapter, tmp_path, form, call, count, new):
    source = write_adapter(adapter, tmp_path / 'source.safetensors')
    target = write_adapter(adapter, tmp_path / form)
    before = read_adapter(target)
    script, output = tmp_path / 'killed.py', tmp_path / 'output.txt'
    script.write_text(KILLED)
    process = PythonProcess(
        [script, source, target, call, count],
        tmp_path,
        output,
        {**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    while 'stopped\n' not in output.read_text():
        assert process.is_alive(), output.read_text()
        time.sleep(0.02)
    process.kill()
    after = read_adapter(target)
    if new:
        assert after.config['metrics'] == {'new': 1.0}
        for key, value in before.tensors.items():
            assert torch.equal(after.tensors[key], value + 1)
    else:
        assert same(after, before)
    write_adapter(adapter, target)
    assert same(read_adapter(target), adapter)
    assert not list(tmp_path.rglob('.*'))


@pytest.mark.parametrize('form', [*FORMS, 'adapter.pth'])
def test_full_disk(adapter, tmp_path, form, monkeypatch):
    write = write_checkpoint if form.endswith('.pth') else write_adapter
    target = write(adapter, tmp_path / form)
    files = [target] if target.is_file() else sorted(target.iterdir())
    before = [file.read_bytes() for file in files]
    real = os.fsync

    def full(descriptor):
        real(descriptor)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    changed = AdapterFile(
        adapter.config,
        {key: value + 1 for key, value in adapter.tensors.items()},
    )
    with pytest.raises(OSError, match='No space left'):
        write(changed, target)
    assert [file.read_bytes() for file in files] == before
    assert not list(tmp_path.rglob('.*'))
