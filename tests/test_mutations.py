"""The tests notice: each of these faults, put in, turns them red.

A mutation is one exchange of text in one file of a copy of the project.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
COPIED = ('mmflora', 'configs', 'demo', 'docs', 'tests', 'tools')


class Mutation(NamedTuple):
    """What is exchanged, where, and the tests that must notice."""

    file: str
    old: str
    new: str
    tests: str


MUTATIONS = {
    'the sign of the update': Mutation(
        'adapters/functional.py',
        '    weight = core\n',
        '    weight = -core\n',
        'test_adapters/test_functional.py',
    ),
    'two modes swapped': Mutation(
        'adapters/functional.py',
        'factors[mode], mode)\n    return weight',
        'factors[{2: 3, 3: 2}.get(mode, mode)], mode)\n    return weight',
        'test_adapters/test_functional.py',
    ),
    'groups dropped': Mutation(
        'adapters/layers/conv.py',
        'tuple(padding), self.dilation, self.groups\n',
        'tuple(padding), self.dilation\n',
        'test_adapters/test_parity.py',
    ),
    'a buffer dropped from the checkpoint': Mutation(
        'checkpoint/state.py',
        '        for key in record.base_keys:\n            state_dict.pop',
        '        buffers = dict(module.named_buffers())\n'
        '        for key in (*record.base_keys, *buffers):\n'
        '            state_dict.pop',
        'test_models/test_frozen.py',
    ),
    'the base skipped in a test': Mutation(
        'models/frozen.py',
        '    if source is not None:\n        load = ',
        '    if source is None:\n        load = ',
        'test_models/test_frozen.py',
    ),
    'a frozen weight where the adapted one is read': Mutation(
        'adapters/layers/read_layer.py',
        '_read(weight, AdaptedLayer.adapted_weight)',
        '_read(weight, AdaptedLayer.base_weight)',
        'test_adapters/test_layer_classes.py',
    ),
    'decay on a magnitude': Mutation(
        'adapters/methods/dora.py',
        'yield self.magnitude',
        'yield from ()',
        'test_engine/test_multipliers.py',
    ),
    'a recipe with a stale leaf': Mutation(
        'adapters/memory/recompute.py',
        'self.leaf_versions, self.leaves, strict=True',
        '(), (), strict=True',
        'test_adapters/test_recompute.py',
    ),
}


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('project')
    ignored = shutil.ignore_patterns('__pycache__', '.mim')
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / 'pyproject.toml', folder)
    return folder


def run(project, tests):
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:xdist']
    return subprocess.run(
        [*command, '-p', 'no:cacheprovider', f'tests/{tests}'],
        cwd=project,
        env={**os.environ, 'PYTHONPATH': str(project)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize('name', MUTATIONS)
def test_it_turns_the_tests_red(project, name):
    file, old, new, tests = MUTATIONS[name]
    path = project / 'mmflora' / file
    text = path.read_text()
    assert text.count(old) == 1, f'{file} has changed: adapt this mutation'
    path.write_text(text.replace(old, new))
    try:
        found = run(project, tests)
    finally:
        path.write_text(text)
    # 1: tests ran, and some failed; anything else is no verdict.
    assert found.returncode == 1, found.stdout[-2000:] + found.stderr[-2000:]
    assert ' failed' in found.stdout


@pytest.mark.parametrize(
    'tests', sorted({mutation.tests for mutation in MUTATIONS.values()})
)
def test_without_it_they_are_green(project, tests):
    found = run(project, tests)
    assert found.returncode == 0, found.stdout[-2000:]
