"""What a user waits for: how it is measured, and the page of it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_engine.toy import backbone_cfg, runner, write_base
from yapf.yapflib import yapf_api

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import run  # noqa: E402
from benchmarks.line_results import Results  # noqa: E402
from benchmarks.waits import shares  # noqa: E402
from benchmarks.waits.commands import (  # noqa: E402
    interleave,
    start_commands,
    time_command,
)
from benchmarks.waits.page import page, shares_of  # noqa: E402
from benchmarks.waits.turns import join  # noqa: E402
from benchmarks.waits.workspace import (  # noqa: E402
    Workspace,
    small_configs,
    write_stock_runtime,
)

ABOUT = dict(
    device='a processor', python='3', versions=dict(torch='2'), date='today'
)
HOOKS = ('hook mmengine.LoggerHook', 'hook mmflora.IterationSeedHook')


@pytest.fixture
def clock(monkeypatch):
    """Both clocks, which the test sets."""
    times = [0.0, 0.0]
    monkeypatch.setattr(shares, 'now', lambda: (times[0], times[1]))

    def passes(seconds, cpu):
        times[0] += seconds
        times[1] += cpu

    return passes


def test_shares_are_exclusive(clock):
    counted = shares.Shares()
    clock(1, 0.5)  # data
    with counted.of('loop'):
        clock(2, 1)
        with counted.of('forward'):
            clock(4, 2)
            with counted.of('backward'):
                clock(8, 4)
            clock(16, 8)
        clock(32, 16)
    counted.end_iteration()
    clock(64, 32)
    counted.end_iteration()
    first, second = counted.rows
    assert first == dict(
        data=(1, 0.5), loop=(34, 17), forward=(20, 10), backward=(8, 4)
    )
    assert second == dict(data=(64, 32))


def test_a_training_is_watched_and_stays_the_same(tmp_path):
    base = write_base(tmp_path / 'base.pth')
    losses = []
    counted = shares.Shares()
    for name in ('plain', 'watched'):
        built = runner(tmp_path / name, backbone_cfg(base))
        if name == 'watched':
            built.register_hook(shares.WatchHook(counted))
        torch.manual_seed(0)
        built.train()
        losses.append(built.message_hub.log_scalars['train/loss'].data[0])
    assert losses[0].tolist() == losses[1].tolist()
    assert len(counted.rows) == len(losses[0])
    names = {name for row in counted.rows for name in row}
    assert {*shares_names(), *HOOKS[1:]} <= names
    for row in counted.rows:
        assert all(used >= 0 for _, used in row.values())
        assert row['forward'][1] > 0
        assert row['backward'][1] > 0


def shares_names():
    return ('data', 'forward', 'backward', 'optimizer', 'loop')


SCRIPT = """
import json, os, sys, time
what = sys.argv[1]
with open('order.txt', 'a') as file:
    file.write(what)
if what == 'fails':
    sys.exit('a clear reason')
if what == 'marks':
    now = time.time()
    marks = dict(read=now, built=now + 1, begins=now + 2, cpu=3)
    open(os.environ['MMFLORA_CLOCK_FILE'], 'w').write(json.dumps(marks))
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    return Workspace(tmp_path)


def test_commands_take_turns(place):
    found = interleave(place, {x: ('script.py', x) for x in 'abc'}, 2)
    # One round to warm up, and each round starts with the next one.
    order = (place.folder / 'order.txt').read_text()
    assert order == 'cab' + 'abc' + 'bca'
    assert [len(found[x]['cpu']) for x in 'abc'] == [2, 2, 2]
    assert all(0 < x < 5 for x in found['a']['cpu'] + found['a']['seconds'])


def test_one_round_alone_has_none_before(place):
    interleave(place, {x: ('script.py', x) for x in 'ab'}, 1)
    assert (place.folder / 'order.txt').read_text() == 'ab'


def test_a_start_ends_where_the_clock_says(place):
    found = time_command(place, ('script.py', 'marks'))
    assert found['cpu'] == 3
    assert found['seconds'] - found['built'] == pytest.approx(1)
    assert found['built'] - found['read'] == pytest.approx(1)
    assert 0 < found['read'] < 5


def test_a_command_that_fails_is_an_error(place):
    with pytest.raises(RuntimeError, match='a clear reason'):
        time_command(place, ('script.py', 'fails'))


@pytest.mark.parametrize('case', run.SMALL)
def test_sides_start_from_files_that_are_there(place, case):
    commands = start_commands(place, case)
    assert next(iter(commands)) == 'stock'
    assert all(Path(words[0]).is_file() for words in commands.values())


@pytest.mark.parametrize('model', run.SMALL.values())
def test_the_stock_runtime_has_nothing_of_mmflora(
    model, tmp_path, monkeypatch
):
    # Formatting the config would take seconds.
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, 0))
    cfg = Config.fromfile(write_stock_runtime(model, tmp_path))
    types = [hook.type for hook in cfg.default_hooks.values()]
    assert not any(kind.startswith('mmflora.') for kind in types)
    assert 'CheckpointHook' in types
    assert set(cfg.optim_wrapper) == {'type', 'optimizer', 'clip_grad'}
    assert len(small_configs(model)) > 5


def iteration(ours, **more):
    """Return what was measured in two iterations of 100 and 200 ms."""
    measured = dict(
        batch=2,
        shares={
            'data': [(1, 0.01), (1, 0.03)],
            'forward': [(1, 0.05 - ours), (1, 0.13 - ours)],
            'backward': [(1, 0.02), (1, 0.02)],
            'optimizer': [(1, 0.01), (1, 0.01)],
            'loop': [(1, 0.0), (1, 0.0)],
            HOOKS[0]: [(1, 0.01), (1, 0.01)],
            HOOKS[1]: [(1, ours), (1, ours)],
        },
        checkpoint=dict(seconds=[1.0], cpu=[0.25], bytes=3_000_000),
        validation=dict(seconds=[1.0], cpu=[0.8], images=8),
    )
    return dict(part='iteration', case='mmdet', **measured, **more, **ABOUT)


def test_shares_of_an_iteration():
    found = shares_of(iteration(0.009, side='adapted'))
    assert found['all'] == pytest.approx(150)
    assert found['data'] == pytest.approx(20)
    assert found[HOOKS[1]] == pytest.approx(9)


def test_turns_are_joined():
    one = iteration(0.001, side='adapted')
    both = join([one, one])
    assert len(both['shares']['data']) == 4
    assert both['checkpoint'] == dict(
        seconds=[1.0, 1.0], cpu=[0.25, 0.25], bytes=3_000_000
    )


def test_the_page_marks_what_is_above_its_bound():
    def start(side, cpu):
        values = dict(seconds=[9.0, 8.0, 7.0], cpu=cpu)
        return dict(part='start', case='mmdet', side=side, **values, **ABOUT)

    merged = dict(start('merge', [5.0]), part='merge')
    assert '| mmdet | merge | merge |' in page([merged])
    text = page(
        [
            start('stock', [2.0, 2.0, 4.0]),
            start('tools/train.py', [2.09, 2.0, 3.0]),
            start('adapted config', [2.11, 2.2, 2.0]),
            iteration(0.0044, side='stock'),
            iteration(0.0046, side='adapted'),
        ]
    )
    assert 'a processor, Python 3, torch 2; today.' in text
    assert '| 8.00 (7.00–9.00) | 2.00 (2.00–4.00) | 1.000 |' in text
    assert '| 2.09 (2.00–3.00) | 1.045 |' in text
    assert '| **1.055** |' in text
    assert '| 4.40 | 2.9 |' in text
    assert '| 4.60 | **3.1** |' in text
    assert '| 250 | 3.0 | 100 |' in text


def test_another_run_replaces_its_own_lines_alone(tmp_path):
    first = Results(tmp_path, 'run', page)
    first.add('start', 'mmdet', 'stock', seconds=[1.0], cpu=[1.0])
    first.add('start', 'mmseg', 'stock', seconds=[1.0], cpu=[1.0])
    results = Results(tmp_path, 'run', page)
    results.add('start', 'mmdet', 'stock', seconds=[1.0], cpu=[2.0])
    lines = (tmp_path / 'run.jsonl').read_text().splitlines()
    found = {line['case']: line for line in map(json.loads, lines)}
    assert len(lines) == 2
    assert found['mmdet']['cpu'] == [2.0]
    assert found['mmseg']['cpu'] == [1.0]
    assert found['mmseg']['versions']['torch'] == torch.__version__
    assert (tmp_path / 'run.md').read_text().startswith('# What a user')


@pytest.mark.slow
@pytest.mark.parametrize('case', run.SMALL)
def test_everything_is_measured(case, tmp_path):
    run.main(
        [
            *('--rounds', '1', '--iterations', '2', '--cases', case),
            *('--small', 'flora/*flora-r16*', '--out', str(tmp_path)),
        ]
    )
    lines = (tmp_path / 'run.jsonl').read_text().splitlines()
    parts = [json.loads(line)['part'] for line in lines]
    assert {part: parts.count(part) for part in parts} == dict(
        start=4, iteration=2, small=2, merge=1, test=5, inference=3
    )
    text = (tmp_path / 'run.md').read_text()
    assert '| stock runtime |' in text
    assert '| adapter file |' in text
