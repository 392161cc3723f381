"""The set-up script, with a stand-in for Python that installs nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'requirements'))
import sweep  # noqa: E402

# Writes its pip calls down; where a file `hang` lies, a call never ends.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
    --version) echo Python 3.11.0 ;;
    '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    '-m pip install '*)
        echo "$*" >>calls
        if [[ -e hang ]]; then exec sleep 60; fi ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    python = tmp_path / 'fake-python'
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def start(project, **environment):
    return subprocess.Popen(
        [project / 'requirements' / 'install.sh'],
        env={
            **os.environ,
            'PYTHON': str(project / 'fake-python'),
            'CXX': 'true',
            **environment,
        },
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A runner in the background ignores Ctrl-C; what it starts does too,
        # and no shell can change that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def calls(project):
    path = project / 'calls'
    return path.read_text().splitlines() if path.exists() else []


def stamps(project):
    return list((project / '.venv').glob('.mmflora-*'))


def wait_for_a_call(project):
    deadline = time.monotonic() + 60
    while not calls(project):
        assert time.monotonic() < deadline, 'pip was never called'
        time.sleep(0.02)


def test_complete_set_up_is_not_repeated(project):
    first = start(project)
    assert first.wait(120) == 0, first.stdout.read()
    done = calls(project)
    assert len(stamps(project)) == 1
    assert 'onedl-mmcv' in done[1]
    assert 'opencv-python-headless' in done[-2]
    assert start(project).wait(120) == 0
    assert calls(project) == done


@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGKILL])
def test_interrupted_set_up_is_resumed(project, sign):
    (project / 'hang').touch()
    process = start(project)
    wait_for_a_call(project)
    os.killpg(process.pid, sign)
    assert process.wait(120) != 0
    assert not stamps(project)

    (project / 'hang').unlink()
    assert start(project).wait(120) == 0
    assert len(calls(project)) == 1 + 5
    assert len(stamps(project)) == 1


def test_two_set_ups_take_turns(project):
    (project / 'hang').touch()
    first = start(project)
    wait_for_a_call(project)
    second = start(project)
    assert 'Another set-up' in second.stdout.readline()
    assert len(calls(project)) == 1
    (project / 'hang').unlink()
    os.killpg(first.pid, signal.SIGKILL)
    assert second.wait(120) == 0
    assert len(calls(project)) == 1 + 5


def test_changed_pins_are_installed(project):
    assert start(project).wait(120) == 0
    with (project / 'requirements' / 'constraints.txt').open('a') as file:
        file.write('another==1.0\n')
    assert start(project).wait(120) == 0
    assert len(calls(project)) == 2 * 5
    assert len(stamps(project)) == 1


def test_dead_environment_is_made_anew(project):
    assert start(project).wait(120) == 0
    (project / '.venv' / 'bin' / 'python').unlink()
    (project / '.venv' / 'left').touch()
    assert start(project).wait(120) == 0
    assert not (project / '.venv' / 'left').exists()


@pytest.mark.parametrize(
    ('environment', 'said'),
    [
        ({'PYTHON': 'false'}, 'PYTHON=false is not a Python 3.10, 3.11'),
        ({'CXX': 'no-such-compiler'}, "'no-such-compiler' was not found"),
    ],
    ids=['python', 'compiler'],
)
def test_what_is_missing_is_named(project, environment, said):
    process = start(project, **environment)
    assert process.wait(120) == 1
    assert said in process.stdout.read()
    assert not (project / '.venv').exists()


def package(site, name, *, finished=True, lost=False):
    info = site / f'{name}-1.0.dist-info'
    info.mkdir()
    rows = [f'{name}.py,,', f'{info.name}/RECORD,,']
    if not lost:
        (site / f'{name}.py').touch()
    if finished:
        (info / 'INSTALLER').touch()
        rows.append(f'{info.name}/INSTALLER,,')
    (info / 'RECORD').write_text('\n'.join(rows))


def test_sweep_forgets_what_pip_left_half_done(tmp_path):
    package(tmp_path, 'whole')
    package(tmp_path, 'cut', finished=False)
    package(tmp_path, 'robbed', lost=True)
    (tmp_path / 'bare-1.0.dist-info').mkdir()
    (tmp_path / '~aside').mkdir()
    assert sweep.sweep(tmp_path) == [
        'bare-1.0.dist-info',
        'cut-1.0.dist-info',
        'robbed-1.0.dist-info',
        '~aside',
    ]
    assert (tmp_path / 'whole-1.0.dist-info').exists()
