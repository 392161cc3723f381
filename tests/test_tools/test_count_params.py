"""The command line of tools/count_params.py, and the page that it wrote."""

import shlex
import sys

import pytest

from tests.test_tools.conftest import CONFIGS, ROOT, load_tool, refused

PAGE = ROOT / 'docs/parameter_counts.md'
FLORA = CONFIGS / 'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool('count_params')


@pytest.fixture
def run(tool, run_main):
    return lambda *words: run_main(tool, *words).out


def rows(text):
    return [line for line in text.splitlines() if line.startswith('| ')]


def test_a_row_for_each_config_in_natural_order(run):
    text = run(CONFIGS / 'flora/mask-rcnn_convnextv2-atto*', FLORA)
    (row,) = rows(text)[2:]
    assert row.startswith(f'| {FLORA.stem} ')
    assert '348,541' in row


def test_patterns_sort_ranks_as_numbers(tool):
    pattern = str(CONFIGS / 'flora/*convnextv2-l*coco.py')
    found = [path.split('-r')[-1] for path in tool.find_configs([pattern])]
    ranks = [path.split('_')[0] for path in found]
    assert ranks == ['16', '42', '83', '130']


def test_configs_of_one_file_name(run, tool, tmp_path):
    for folder, rank in (('a', 8), ('b', 16)):
        path = tmp_path / f'{folder}/my_config.py'
        path.parent.mkdir()
        path.write_text(
            f"_base_ = '{FLORA}'\n"
            f'model = dict(backbone=dict(adapter=dict(rank={rank})))\n'
        )
    # The first one twice, in another spelling.
    text = run(f'{tmp_path}/a/../a/my_config.py', f'{tmp_path}/*/my_config.py')
    first, second = rows(text)[2:]
    assert first.startswith('| a/my_config ')
    assert second.startswith('| b/my_config ')
    assert first.split('|')[5] != second.split('|')[5]
    paths = ['x/a.py', 'x/y/b.py', 'z/y/b.py']
    assert [*tool.short_names(paths).values()] == ['a', 'x/y/b', 'z/y/b']


def test_budget_and_page(run, tmp_path):
    page = tmp_path / 'table.md'
    options = ('--cfg-options', 'model.backbone.adapter.kernel_rank=1')
    text = run(FLORA, '--budget', '0.3M', '--out', page, *options)
    choice = text[text.index('FLoRA: rank ') :].splitlines()
    assert choice[0].endswith(
        ' comes nearest to 300,000 parameters in the backbone'
    )
    ranks = [line.split()[-4:-2] for line in choice[1:4]]
    assert int(ranks[2][0]) == int(ranks[0][0]) + 2
    assert choice[2].startswith('* rank ')
    written = page.read_text()
    assert rows(written) == rows(text)
    assert '--budget 0.3M' in written
    assert '*backbone: method*' in written


def of_method(method):
    return CONFIGS / method / FLORA.name.replace('flora-r16', method)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ((FLORA.with_stem('mask-rcnn_nix'),), 'Config not found: '),
        ((CONFIGS / 'nix/*.py',), 'No config matches '),
        ((FLORA, '--budget=much'), "--budget: 'much' is no number of param"),
        ((of_method('bitfit'), '--budget=1M'), 'BitFit has no rank'),
        (
            (of_method('frozen'), '--budget=1M'),
            '0 frozen parts with an adapter',
        ),
        ((CONFIGS / '_base_/methods/flora-r16.py',), 'has no `model`'),
        ((FLORA, '--out=nix/table.md'), "--out: the folder of 'nix/table.md'"),
        ((FLORA, '--beside=nix.csv'), 'nix.csv'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_refusals(run, words, message):
    assert message in refused(run, *words)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('broken.py', 'model = dict('),
        ('no_base.py', "_base_ = './nix.py'"),
        ('notes.txt', 'model'),
    ],
)
def test_what_cannot_be_read(run, tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert f"'{path}' cannot be read as a config: " in refused(run, path)


def test_output_is_the_table_alone(workspace):
    tool = ROOT / 'tools/count_params.py'
    command = shlex.join(map(str, (sys.executable, tool, FLORA)))
    done = workspace.run('sh', '-c', f'{command} 2>err')
    assert len(done.splitlines()) == 3
    assert '348,541' in done


def test_the_page_of_table_1_is_what_the_tool_writes(run, monkeypatch):
    """Detectors on COCO alone, for time; the others have the same code."""
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text()
    command = text.partition('```bash\n')[2].partition('\n```')[0]
    words = shlex.split(command.replace('\\\n', ' '))
    assert words[:2] == ['python', 'tools/count_params.py']
    beside = words[words.index('--beside') + 1]
    found = rows(
        run('configs/*/mask-rcnn_convnextv2-l_*_coco.py', '--beside', beside)
    )
    expected = [cells(row) for row in rows(text)]
    for row in found:
        if not row.startswith('| -'):
            assert cells(row) in expected


def cells(row):
    return [cell.strip() for cell in row.split('|')]
