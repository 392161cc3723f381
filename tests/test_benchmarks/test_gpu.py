"""The runner of the GPU's rows, without a GPU."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, gpu_page  # noqa: E402
from benchmarks.gpu_rows import ROWS, Row  # noqa: E402

SCRIPT = """
import json, sys, time
out, what = sys.argv[1:]
if what == 'fails':
    sys.exit('a clear reason')
if what == 'hangs':
    time.sleep(600)
open(out, 'w').write(json.dumps(dict(
    images=2, height=8, width=8, times=[3.0, 1.0, 2.0], trained=7,
    peak=2 * 2**30, forecast=int(what) * 2**30)))
"""


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Rows of a moment: one that works, one that fails, one that hangs."""
    script = tmp_path / 'row.py'
    script.write_text(SCRIPT)

    def row(name, what, minutes=1.0):
        def words(device, small):
            return [str(script), '{out}', what]

        return Row(name, 'forecast', f'the {name} one', minutes, words)

    made = (
        row('broken', 'fails'),
        row('endless', 'hangs', 0.01),
        row('good', '2'),
        row('off', '3'),
    )
    for module in (gpu, gpu_page):
        monkeypatch.setattr(module, 'ROWS', made)
    monkeypatch.setattr(gpu, 'machine', lambda _: MACHINE)
    return made


MACHINE = dict(device='a card', versions={'torch': '2'}, python='3')


def run(folder, *more):
    gpu.main(
        ['--device', 'cpu', '--small', '--out', str(folder), *map(str, more)]
    )
    return {
        file.stem: json.loads(file.read_text())
        for file in folder.glob('*.json')
    }


def test_a_row_fails_alone_and_nothing_is_measured_twice(
    rows, tmp_path, capsys
):
    out = tmp_path / 'out'
    found = run(out)
    assert set(found) == {'broken', 'endless', 'good', 'off'}
    assert found['broken']['failed'].endswith('a clear reason')
    assert found['endless']['failed'].startswith('stopped after')
    assert found['good']['found']['times'] == [3.0, 1.0, 2.0]
    assert found['good']['device'] == 'a card'
    assert found['good']['command'].endswith('row.py OUT 2')
    assert (out / 'broken.log').read_text().strip() == 'a clear reason'
    capsys.readouterr()
    assert run(out) == found
    assert capsys.readouterr().out.count('there already') == 4
    again = run(out, '--retry', '--only', 'broken', 'good')
    assert again['good'] == found['good']
    assert 'failed' in again['broken']


def test_without_time_nothing_is_measured(rows, tmp_path):
    assert run(tmp_path / 'out', '--minutes', 0.1) == {}
    assert 'Nothing has been measured' in (tmp_path / 'out/gpu.md').read_text()


def test_the_page_says_what_was_found(rows, tmp_path):
    run(tmp_path / 'out')
    page = (tmp_path / 'out/gpu.md').read_text()
    assert '| the good one | 2 of 8 × 8 | 2.000 | 1.000–3.000 | 2.00' in page
    assert '| 2.00 | +0.0 % | 7 |' in page
    assert '**+50.0 %**' in page
    assert 'failed: 1: a clear reason' in page
    assert 'This is a rehearsal' in page


def test_a_rehearsal_needs_a_folder_of_its_own(capsys):
    with pytest.raises(SystemExit):
        gpu.main(['--device', 'cpu'])
    assert '--out' in capsys.readouterr().err


@pytest.mark.parametrize('small', [True, False], ids=['small', 'full'])
@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_rows_name_files_that_are_there(row, small):
    words = row.words('cuda', small)
    assert (ROOT / words[0]).is_file()
    assert '{out}' in words
    assert all((ROOT / word).is_file() for word in words if '.py' in word)


@pytest.mark.slow
def test_the_rehearsal_runs_every_row(tmp_path):
    found = run(tmp_path / 'out', '--minutes', 30)
    failed = {k: r['failed'] for k, r in found.items() if 'failed' in r}
    assert not failed
    assert set(found) == {row.name for row in ROWS}
