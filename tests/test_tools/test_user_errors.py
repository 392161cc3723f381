"""What bad input, a full disk and a missing package look like in a tool."""

import errno
import sys

import pytest

from mmflora.adapters.hf_peft import MissingPeft
from mmflora.config.command_line import user_errors

from .conftest import ROOT, load_tool, refused

# Of each tool a command line, and what raises when it is run.
TOOLS = {
    'adapters': ('list', 'mmflora.adapter_files.describe.list_adapters'),
    'count_params': ('c.py', 'mmflora.config.build.resolve_config'),
    'estimate_memory': ('c.py', 'mmflora.memory_estimate.parse_card'),
    'export_graph': (
        'c.py c.pth --out g.onnx',
        'mmflora.config.build.read_config',
    ),
    'merge': ('c.py c.pth --out m.pth', 'mmflora.config.build.read_config'),
    'method_runs': ('--out runs', 'demo.shapes.write_shapes'),
    'new_config': (
        '--data d --out c.py',
        'mmflora.new_config.make_config.make_config',
    ),
    'rank_curve': (
        'c.py c.pth --ranks 1',
        'mmflora.config.launch.load_config',
    ),
    'search_adapters': (
        'c.py c.pth --budget 1k --out f',
        'mmflora.config.launch.load_config',
    ),
    'study': ('s.py', 'mmflora.study.study_file.read_study'),
    'test': ('c.py c.pth', 'mmflora.config.launch.load_config'),
    'train': ('c.py', 'mmflora.config.launch.load_config'),
    'zoo_coverage': ('', 'benchmarks.zoo.sweep.results_folder'),
}
# They write pages or pictures of what is here, and parts of other tools.
OTHERS = {
    *('adapters_options', 'list_methods', 'list_systems', 'make_shapes'),
    *('method_trials', 'peft_descriptions', 'systems'),
}
ERRORS = [
    MissingPeft('Install it: pip install peft'),
    OSError(errno.ENOSPC, 'No space left on device'),
    TypeError('FLoRA has no setting rnak'),
    ValueError('a rank is at least 1'),
]


def test_every_tool_is_in_the_table():
    files = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert files == TOOLS.keys() | OTHERS


@pytest.mark.parametrize('name', TOOLS)
def test_errors_of_users_have_no_traceback(
    name, run_main, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path, str(ROOT / 'tools')])
    words, place = TOOLS[name]
    tool = load_tool(name)
    for error in ERRORS:

        def fail(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            said = refused(run_main, tool, *words.split())
        assert said == f'error: {error}'


def test_an_error_of_the_code_keeps_its_traceback():
    with pytest.raises(AttributeError), user_errors():
        raise AttributeError('no user can cause it')
    failed = pytest.raises(SystemExit, match='error: failed')
    with failed, user_errors(RuntimeError):
        raise RuntimeError('failed')
