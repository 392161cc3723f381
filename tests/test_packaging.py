"""The package as users get it: pins, wheel, config scopes."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from mmengine.config import Config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmflora.config.scopes import register_config_scopes
from mmflora.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKED = ('configs', 'demo', 'tools', 'model-index.yml')
FILES = ('LICENSE', 'README.md', 'pyproject.toml', 'setup.py', *PACKED)


def requirements_in(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    stripped = (line.partition('#')[0].strip() for line in lines)
    return [Requirement(line) for line in stripped if line]


def names_of(requirements):
    return {
        canonicalize_name(requirement.name) for requirement in requirements
    }


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built as `pip install .` builds it, from a copy of the project."""
    source = tmp_path_factory.mktemp('source')
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('mmflora', 'requirements', *FILES):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copyfile(ROOT / name, source / name)
    left_over = source / 'build' / 'lib' / 'mmflora' / 'left_over.py'
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    output = tmp_path_factory.mktemp('wheel')
    pip('wheel', '--no-deps', '--no-build-isolation', '-w', output, source)
    (path,) = output.glob('*.whl')
    return path


def pip(*arguments):
    command = [sys.executable, '-m', 'pip', '-q', *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    'name',
    [
        *('build', 'runtime', 'mminstall', 'peft', 'tests', 'benchmarks'),
        *('export', 'extract', 'quantize', 'deepspeed'),
    ],
)
def test_every_requirement_has_one_pin_inside_its_range(name):
    pins = {}
    for pin in requirements_in('constraints'):
        assert re.fullmatch(r'==[\w.]+', str(pin.specifier)), pin
        assert pins.setdefault(canonicalize_name(pin.name), pin) is pin
    for requirement in requirements_in(name):
        pin = pins[canonicalize_name(requirement.name)]
        version = str(pin.specifier).removeprefix('==')
        assert requirement.specifier.contains(version), (requirement, pin)


def test_wheel_asks_for_the_lists(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('/METADATA'))
        metadata = Parser().parsestr(archive.read(name).decode())
    asked = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    plain = [one for one in asked if one.marker is None]
    extra = [
        one
        for one in asked
        if one.marker is not None and one.marker.evaluate({'extra': 'mim'})
    ]
    assert metadata['Version'] == __version__
    assert names_of(plain) == names_of(requirements_in('runtime'))
    assert names_of(extra) == names_of(requirements_in('mminstall'))


def test_wheel_packs_configs_and_tools(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f'mmflora/.mim/{path.relative_to(ROOT)}'
        for name in PACKED
        for path in [ROOT / name, *(ROOT / name).rglob('*')]
        if path.is_file() and path.suffix != '.pyc'
    }
    assert expected
    assert {name for name in packed if '/.mim/' in name} == expected
    assert 'mmflora/left_over.py' not in packed


def test_installed_wheel_serves_its_configs_from_anywhere(wheel, tmp_path):
    site = tmp_path / 'site'
    pip('install', '--no-deps', '--target', site, wheel)
    packed = site / 'mmflora' / '.mim' / 'configs'
    base = sorted((packed / '_base_').rglob('*.py'))[0]
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = 'mmflora::{base.relative_to(packed)}'\n")
    code = (
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import mmflora.config.scopes as scopes\n'
        f'assert scopes.__file__.startswith({str(site)!r}), scopes.__file__\n'
        'scopes.register_config_scopes()\n'
        'from mmengine.config import Config\n'
        "print(Config.fromfile('mine.py').text)\n"
    )
    run = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert str(base) in run.stdout


@pytest.mark.parametrize(
    'base',
    ['mmseg::_base_/default_runtime.py', 'mmdet::_base_/default_runtime.py'],
)
def test_toolkit_bases_resolve(base, tmp_path):
    register_config_scopes()
    config = tmp_path / 'mine.py'
    config.write_text(f'_base_ = {base!r}\n')
    assert Config.fromfile(config).default_scope == base.partition('::')[0]


def test_missing_mmseg_is_named_by_its_distribution(monkeypatch):
    table = {}
    monkeypatch.setattr('mmflora.config.scopes.find_spec', lambda name: None)
    monkeypatch.setattr('mmflora.config.scopes.MODULE2PACKAGE', table)
    register_config_scopes()
    assert table['mmseg'] == 'onedl-mmsegmentation'
