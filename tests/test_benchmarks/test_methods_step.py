"""benchmarks/methods.py: a step by any method, and what it costs beside."""

import json
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import methods  # noqa: E402
from benchmarks.measure import Setting  # noqa: E402
from benchmarks.mechanism_costs import (  # noqa: E402
    CalibrationStep,
    TrainedStep,
    measure_pass,
)
from benchmarks.mechanism_rows import (  # noqa: E402
    CALIBRATED,
    CONVNEXT,
    FLOOR,
    FLORA,
    HOOKED,
    ROWS,
    VIT,
    methods_of,
)
from benchmarks.method_page import page, table  # noqa: E402
from benchmarks.methods import adapted, main, measure, parse_args  # noqa: E402

SMALL = Setting('vit_tiny_patch16_224', 32, 1, 'float32', 'cpu', 0)
VPT = "dict(type='VPT', tokens=3)"
ABOUT = dict(
    device='a processor', python='3', versions=dict(torch='2'), date='today'
)


def test_rows_are_of_the_methods_and_the_floor():
    lines = []
    rows = measure([VPT, VPT], SMALL, 1, 0, lines.append)
    assert list(rows) == [FLOOR, VPT]
    assert rows[FLOOR]['trainable'] == 0
    assert rows[VPT]['trainable'] == 12 * 3 * 192
    # More tokens in each block, whose keys and values are kept.
    assert rows[VPT]['bytes_held'] > rows[FLOOR]['bytes_held']
    assert len(lines) == 1
    *_, last = table(rows).splitlines()
    assert last.startswith(f'|  | `{VPT}` | 6,912 | ')


def test_a_calibration_is_measured():
    def make():
        return adapted("dict(type='GPS')", SMALL)

    step = CalibrationStep(make(), SMALL, 2)
    layers = step.candidate.backbone.blocks
    assert layers[0].mlp.fc1.adapter.values.any()
    step.seconds()
    assert not layers[0].mlp.fc1.adapter.values.any(), 'started again'
    found = measure_pass(make, SMALL, 1, lambda _: None)
    # A gradient of each weight, at the least.
    weights = sum(p.numel() for p in layers.parameters())
    assert found['bytes_peak'] > 4 * weights
    assert found['start_seconds'] > 0


@pytest.mark.parametrize('scope', ['mmflora', 'mmseg'])
def test_a_hook_acts_around_the_step(scope):
    # A toolkit's model that the process built before leaves its scope.
    with DefaultScope.overwrite_default_scope(scope):
        step = TrainedStep(
            adapted("dict(type='DyLoRA', rank=8)", SMALL),
            SMALL,
            dict(type='SampledRankHook'),
        )
    layer = step.candidate.backbone.blocks[0].mlp.fc1
    ranks, before = [], layer.adapter.up.detach().clone()
    layer.register_forward_hook(lambda *_: ranks.append(layer.adapter.prefix))
    for _ in range(8):
        took = step.seconds()
        assert 0 <= step.own[-1] < 0.5 * took
    assert set(ranks) <= set(range(1, 9))
    assert len(set(ranks)) > 1
    assert layer.adapter.prefix is None
    assert not layer.adapter.up.equal(before)


def test_what_is_no_method_is_said():
    with pytest.raises(ValueError, match="Unknown adapter type 'VTP'"):
        main(["dict(type='VTP')", '--size', '32', '--repeats', '1'])
    with pytest.raises(SystemExit):
        parse_args(['--repeats', '0'])


def test_each_mechanism_stands_beside_flora():
    mechanisms = {row.mechanism for row in ROWS}
    for model, without in ((VIT, 'ladder'), (CONVNEXT, 'tokens')):
        found = methods_of(model)
        assert FLORA in found
        assert mechanisms - set(found.values()) == {without}
    assert {'tokens', 'ladder'}.isdisjoint(methods_of('resnet18').values())


def line(part, side, **measured):
    setting = dict(size=32, batch=2, dtype='float32', threads=1)
    measured |= dict(part=part, case=VIT, side=side)
    return measured | setting | ABOUT


def step_line(method, times, held):
    measured = dict(trainable=7000, bytes_held=held, bytes_peak=2**21)
    own = dict(mechanism='blocks' if method == VPT else '')
    return line('step', method, times=times, **own, **measured)


def test_the_page_says_what_was_measured():
    hook = dict(
        {'with': [1.02, 2.2, 3.3]},
        without=[1.0, 2.0, 2.0],
        own=[0.1, 0.01, 0.04],
    )
    text = page(
        [
            step_line(FLOOR, [1.0, 2.0, 4.0], 2**20),
            step_line(FLORA, [1.1, 2.2, 4.4], 2**21),
            step_line(VPT, [1.5, 2.0, 8.0], 2**20),
            line(
                'pass',
                FLORA,
                batch_seconds=3.0,
                start_seconds=0.5,
                bytes_peak=2**22,
            ),
            line('hook', 'a hook', method=VPT, times=hook),
        ]
    )
    assert 'a processor, Python 3, torch 2; today.' in text
    assert f'## {VIT}, 32 px, batch 2, float32, 1 thread\n' in text
    assert '| 1.50 (1.00–2.00) | 1.0 MiB | 0.50 | 2.0 MiB |' in text
    assert '| 3.00 s | 1.50 | 0.50 s | 4.0 MiB |' in text
    assert '| 2.000 s | 2.00 % | +10.0 % (+2.0 to +65.0) |' in text


def small(monkeypatch, rows, calibrated, hooked):
    monkeypatch.setattr(methods, 'ROWS', rows)
    monkeypatch.setattr(methods, 'CALIBRATED', calibrated)
    monkeypatch.setattr(methods, 'HOOKED', hooked)


def run(folder, *words):
    main(
        [
            *('--models', VIT, '--size', '32', '--batch', '1'),
            *('--repeats', '1', '--warmup', '0', '--out', str(folder)),
            *words,
        ]
    )
    lines = (folder / 'methods.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_one_command_measures_and_writes(tmp_path, monkeypatch):
    hook = next(iter(HOOKED))
    own = {hook: HOOKED[hook]}
    small(monkeypatch, ROWS[:1], CALIBRATED[:1], own)
    lines = run(tmp_path)
    assert [(one['part'], one['side']) for one in lines] == [
        ('step', FLOOR),
        ('step', FLORA),
        ('pass', CALIBRATED[0].method),
        ('hook', hook),
    ]
    assert lines[1]['mechanism'] == 'factors'
    again = run(tmp_path, '--only', 'hook')
    assert again[:3] == lines[:3]
    assert 'Hooks' in (tmp_path / 'methods.md').read_text()


@pytest.mark.slow
def test_every_mechanism_is_measured(tmp_path):
    lines = run(tmp_path)
    sides = [one['side'] for one in lines]
    passes = methods_of(VIT, CALIBRATED)
    assert sides == [FLOOR, *methods_of(VIT), *passes, *HOOKED]
