"""The page on systems of the literature names what is there."""

from pathlib import Path

import pytest

import mmflora.engine  # noqa: F401
from mmflora.registry import ADAPTERS, HOOKS

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / 'configs' / '_base_' / 'methods'


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import list_systems

    return list_systems


def test_the_page_is_what_the_script_writes(tools):
    assert tools.PAGE.read_text(encoding='utf-8') == tools.page(), (
        'run python tools/list_systems.py --write'
    )


def test_every_place_is_there(tools):
    pytest.importorskip('peft')
    from mmflora.adapters.hf_peft import supported_types

    known = {
        '': ADAPTERS.module_dict,
        'hook': HOOKS.module_dict,
        'peft': supported_types(),
        'config': {path.stem for path in METHODS.glob('*.py')},
        'tool': {path.name for path in (ROOT / 'tools').glob('*.py')},
    }
    names = set()
    for rows in tools.SYSTEMS.values():
        for name, places, remark in rows:
            assert name not in names
            names.add(name)
            for place in places:
                kind, _, own = place.rpartition(':')
                assert own in known[kind], (name, place)
            assert '|' not in remark
    assert len(names) > 60


def test_no_method_is_said_to_be_missing(tools):
    plain = {
        name.lower().replace('-', ''): places
        for rows in tools.SYSTEMS.values()
        for name, places, _ in rows
    }
    for name, method in ADAPTERS.module_dict.items():
        if method.__module__.startswith('mmflora.'):
            assert plain.get(name.lower(), True), name


def test_every_config_is_read_and_shown(tools):
    found = tools.configs_by_method()
    assert found['SoKA'] == ['soka-r16']
    assert set(found['FLoRA']) > {'flora-r16', 'flora-weight-r16'}
    assert found['VPT'] == ['internvit/vpt-deep', 'internvit/vpt-shallow']
    names = {name for own in found.values() for name in own}
    assert {path.stem for path in METHODS.glob('*.py')} <= names
    assert '| `soka-r16` |' in tools.page()
