"""The pages on methods say what is so."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from worked_example import examples_of_mechanisms, write_example

from mmflora.adapters import adapted_layers
from mmflora.registry import ADAPTERS

ROOT = Path(__file__).resolve().parents[1]
TOOLS = str(ROOT / 'tools')


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """The code of docs/add_a_method.md; its class is forgotten after."""
    check = write_example(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path, check
    ADAPTERS._module_dict.pop('OuterProduct', None)
    sys.modules.pop('outer_product', None)


def test_the_example_of_a_method_is_true(blocks):
    folder, check = blocks
    config = Config.fromfile(folder / 'config.py')
    backbone = config.model.backbone
    assert backbone.peft.adapter.to_dict() == dict(
        type='OuterProduct', scale=2.0
    )
    built = MODELS.build(
        {**backbone, 'init_cfg': None, 'allow_random_base': True}
    )
    layers = adapted_layers(built)
    kinds = {type(layer.adapter).__name__ for layer in layers.values()}
    assert kinds == {'OuterProduct'}
    exec(compile(check, 'add_a_method.md', 'exec'), {})


@pytest.mark.parametrize('heading', examples_of_mechanisms())
def test_the_examples_of_mechanisms_are_true(heading, monkeypatch):
    known = dict(ADAPTERS.module_dict)
    monkeypatch.setattr(ADAPTERS, '_module_dict', known)
    code = examples_of_mechanisms()[heading]
    exec(compile(code, heading, 'exec'), {'__name__': heading})


def test_method_page_is_what_the_script_finds(monkeypatch):
    peft = pytest.importorskip('peft')
    monkeypatch.syspath_prepend(TOOLS)
    import list_methods

    text = list_methods.PAGE.read_text(encoding='utf-8')
    if f'huggingface/peft {peft.__version__}' not in text:
        pytest.skip('the page is of another version of peft')
    assert list_methods.page() == text, (
        'run python tools/list_methods.py --write'
    )


def test_every_method_of_peft_has_a_description(monkeypatch):
    pytest.importorskip('peft')
    monkeypatch.syspath_prepend(TOOLS)
    from peft_descriptions import DESCRIPTIONS

    from mmflora.adapters.hf_peft import supported_types

    assert list(DESCRIPTIONS) == supported_types()
    assert all(line and paper for line, paper in DESCRIPTIONS.values())


def test_every_method_says_where_it_is_from():
    papers = {
        name: method.paper
        for name, method in ADAPTERS.module_dict.items()
        if method.__module__.startswith('mmflora.')
    }
    assert all(papers.values())
    text = (ROOT / 'docs' / 'methods.md').read_text(encoding='utf-8')
    rows = {
        line.split('`')[1]: line
        for line in text.splitlines()
        if line.startswith('| `')
    }
    for name, paper in papers.items():
        if name != 'HFPEFT':  # its methods have rows of their own
            assert paper.split(' arXiv:')[0] in rows[name]
