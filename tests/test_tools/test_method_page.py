"""The table of tools/method_runs.py, and the page that it wrote."""

import json
import re
import sys

import pytest

from .conftest import ROOT, load_tool

PAGE = ROOT / 'docs/method_runs.md'


@pytest.fixture(scope='module')
def tool():
    return load_tool('method_runs')


@pytest.fixture(autouse=True)
def _tools_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))


def write_log(folder, losses):
    folder.mkdir(parents=True)
    lines = [
        json.dumps(dict(loss=loss, time=0.5, step=step))
        for step, loss in enumerate(losses)
    ]
    (folder / 'scalars.json').write_text('\n'.join(lines))


def test_every_method_stands_in_the_page_with_a_loss_that_falls(tool):
    rows = re.findall(
        r'\| \[(.*?)\]\((.*?)\) \| [\d,]+ \| ([\d.]+) \| ([\d.]+) \|',
        PAGE.read_text(encoding='utf-8'),
    )
    links = {method: PAGE.parent / link for method, link, *_ in rows}
    configs = tool.small_configs()
    assert len(rows) == len(links)
    assert {m: link.resolve() for m, link in links.items()} == configs
    assert all(float(last) < float(first) for *_, first, last in rows)


def test_the_page_and_the_tool_have_one_title(tool):
    text = PAGE.read_text(encoding='utf-8')
    assert text.startswith(tool.HEAD.partition('\n')[0] + '\n')
    # What the tool does not write says so.
    assert ('added by hand' in text) == (text.count('| method |') > 1)


def test_table_is_of_the_last_log(tool, tmp_path):
    configs = {'bitfit': tool.small_configs()['bitfit']}
    write_log(tmp_path / 'bitfit/20260101_000000/vis_data', [9] * 20)
    write_log(tmp_path / 'bitfit/20260102_000000/vis_data', range(20, 9, -1))
    *_, row = tool.table(configs, tmp_path)
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[0].startswith('[bitfit](../configs/bitfit/')
    assert int(cells[1].replace(',', '')) > 1000
    assert cells[2:] == ['18.00', '12.00']


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        (['lora-r9'], 'no small Mask R-CNN with lora-r9. There is one with'),
        (['bitfit', '--write'], 'Leave METHOD out'),
        (['--epochs', '0'], '--epochs: at least 1, got 0'),
    ],
)
def test_refusals(tool, monkeypatch, tmp_path, words, part):
    words = ['method_runs.py', '--out', str(tmp_path / 'runs'), *words]
    monkeypatch.setattr(sys, 'argv', words)
    with pytest.raises(SystemExit, match=part):
        tool.main()
    assert not (tmp_path / 'runs').exists()


def test_a_run_that_fails_is_an_error_with_its_output(tool, tmp_path):
    config = tmp_path / 'nothing.py'
    before = list(sys.argv)
    with pytest.raises(RuntimeError, match='Config not found') as caught:
        tool.train(config, tmp_path / 'run')
    output = tmp_path / 'run/output.txt'
    assert str(config) in str(caught.value)
    assert str(output) in str(caught.value)
    assert 'Traceback' in output.read_text()
    assert sys.argv == before
