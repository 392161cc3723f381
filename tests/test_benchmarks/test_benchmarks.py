"""The adapter benchmark, on the smallest model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import adapters, ranks, report  # noqa: E402
from benchmarks.authors import SecondOperator  # noqa: E402
from benchmarks.backbones import build_backbone, weighted_layers  # noqa: E402
from benchmarks.contenders import (  # noqa: E402
    CONTENDERS,
    Contender,
    build,
    chosen,
)
from benchmarks.measure import Setting, Step  # noqa: E402

MODEL, SIZE, RANK = 'convnextv2_atto', 64, 4
SETTING = Setting(MODEL, SIZE, 1, 'float32', 'cpu', RANK)
COUNTS = {
    'peft-lora': ranks.count_lora,
    'peft-dora': ranks.count_dora,
    'locon': ranks.count_locon,
    'loralib': ranks.count_loralib,
}


def layers_of(name):
    return weighted_layers(
        build_backbone(MODEL, SIZE),
        depthwise='nodw' not in name and 'peft' not in name,
    )


@pytest.fixture(scope='module')
def frozen_output():
    step = Step(build('frozen', MODEL, SIZE, RANK), SETTING, exact=True)
    return step.forward().detach()


@pytest.mark.parametrize('name', CONTENDERS)
def test_contender_starts_at_the_frozen_model(name, frozen_output):
    untouched = build(name, MODEL, SIZE, RANK, drawn=False)
    step = Step(untouched, SETTING, exact=True)
    # peft computes DoRA's magnitudes when it is built, in float32.
    atol = 1e-5 if name == 'peft-dora' else 1e-12
    torch.testing.assert_close(
        step.forward(), frozen_output, rtol=1e-10, atol=atol
    )


@pytest.mark.parametrize('name', CONTENDERS)
def test_contender_trains_what_it_should(name, frozen_output):
    candidate = build(name, MODEL, SIZE, RANK)
    step = Step(candidate, SETTING, exact=True)
    output = step.forward()
    moved = (output - frozen_output).norm() / frozen_output.norm()
    if name in ('frozen', 'frozen-grn', 'full'):
        assert moved < 1e-10
    else:
        assert moved > 1e-3
    step.backward(output)
    # Raises where a gradient is missing.
    assert all(gradient.abs().sum() > 0 for gradient in step.gradients())
    with_gradient = [p for p in candidate.parameters() if p.grad is not None]
    assert len(with_gradient) == len(candidate.trainable())


@pytest.mark.parametrize('name', CONTENDERS)
def test_trainable_parameters_are_counted_and_matched(name):
    candidate = build(name, MODEL, SIZE, RANK)
    trainable = sum(p.numel() for p in candidate.trainable())
    layers = layers_of(name)
    if name.startswith('frozen'):
        assert (candidate.layers, trainable) == (0, 0)
        return
    assert candidate.layers == len(layers)
    if name == 'full':
        assert trainable == sum(p.numel() for p in candidate.parameters())
        return
    target = sum(ranks.count_flora(one, RANK) for one in layers.values())
    if name == 's2ft':  # whole channels alone
        assert trainable == pytest.approx(target, rel=0.5)
        return
    if name not in COUNTS:
        assert trainable == target
        return

    def count(kind, offset=0):
        return sum(
            COUNTS[name](one, candidate.ranks[kind] + offset)
            for one in layers.values()
            if ranks.kind_of(one) == kind
        )

    assert trainable == sum(count(kind) for kind in candidate.ranks)
    for kind, rank in candidate.ranks.items():
        wanted = sum(
            ranks.count_flora(one, RANK)
            for one in layers.values()
            if ranks.kind_of(one) == kind
        )
        miss = abs(count(kind) - wanted)
        assert miss <= abs(count(kind, 1) - wanted)
        assert rank == 1 or miss <= abs(count(kind, -1) - wanted)


def test_authors_way_computes_the_same_as_mmflora():
    ours = build('flora', MODEL, SIZE, RANK).double()
    theirs = build('authors', MODEL, SIZE, RANK).double()
    pairs = []
    for name, module in theirs.named_modules():
        if isinstance(module, SecondOperator):
            adapter = ours.get_submodule(name).adapter
            pairs.append((adapter.core, module.core))
            pairs += zip(adapter.factors, module.factors, strict=True)
    assert len(pairs) == len(ours.trainable())
    with torch.no_grad():
        for own, other in pairs:
            other.copy_(own)
    first = Step(ours, SETTING, exact=True)
    second = Step(theirs, SETTING, exact=True)
    outputs = first.forward(), second.forward()
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    first.backward(outputs[0])
    second.backward(outputs[1])
    for own, other in pairs:
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_contenders_that_differ_in_nothing_are_left_out():
    names = chosen('vit_tiny_patch16_224', SIZE, None)
    assert set(CONTENDERS) - set(names) == {
        'frozen-grn',
        'flora-nodw',
        'flora-nodw-lean',
    }
    assert chosen(MODEL, SIZE, None) == list(CONTENDERS)
    assert chosen(MODEL, SIZE, ['full']) == ['frozen', 'full']
    with pytest.raises(ValueError, match="no contender 'flor', only frozen,"):
        chosen(MODEL, SIZE, ['flor'])


def arguments(folder, *more):
    small = ['--model', MODEL, '--size', str(SIZE), '--error-size', str(SIZE)]
    small += ['--batch', '1', '--rank', str(RANK), '--device', 'cpu']
    return [*small, '--warmup', '1', '--out', str(folder), *more]


def test_it_writes_what_it_measured(tmp_path):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in adapters.ENVIRONMENT  # it has to set them itself
    }
    command = [sys.executable, ROOT / 'benchmarks' / 'adapters.py']
    more = ('--only', 'flora', 'flora-lean', '--repeats', '2')
    run = subprocess.run(
        [*command, *arguments(tmp_path, *more, '--threads', '1')],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    stem = 'adapters_convnextv2_atto_64px_b1_r4_float32_cpu'
    found = json.loads((tmp_path / f'{stem}.json').read_text())
    picture = (tmp_path / f'{stem}.png').read_bytes()
    assert picture.startswith(b'\x89PNG')
    assert found['versions']['torch'] == torch.__version__
    assert found['threads'] == 1
    assert found['setting'] == vars(SETTING)
    rows = found['contenders']
    assert list(rows) == ['frozen', 'flora', 'flora-lean']
    for row in rows.values():
        assert row['label'] in run.stdout
        assert len(row['times']) == 2
        assert min(row['times']) > 0
        assert row['bytes_peak'] > row['bytes_held'] > 0
        assert 0 < row['output_error'] < 1e-5
        assert 0 < row['gradient_error'] < 1e-5
    held = {name: row['bytes_held'] for name, row in rows.items()}
    assert held['flora-lean'] < held['flora']


def test_a_library_that_fails_is_left_out_and_named(
    tmp_path, monkeypatch, capsys
):
    def fail(backbone, rank):
        raise RuntimeError('no such kernel')

    monkeypatch.setitem(CONTENDERS, 'loralib', Contender('broken', fail))
    more = ('--only', 'loralib', '--repeats', '0')
    adapters.main(arguments(tmp_path, *more))
    said = 'left out, RuntimeError: no such kernel'
    assert said in capsys.readouterr().out
    (path,) = tmp_path.glob('*.json')
    assert not list(tmp_path.glob('*.png'))
    found = json.loads(path.read_text())
    assert list(found['contenders']) == ['frozen']
    assert found['left_out'] == {'loralib': 'RuntimeError: no such kernel'}


def test_autocast_is_compared_with_float64(tmp_path):
    more = ('--only', 'flora', '--dtype', 'bfloat16', '--repeats', '0')
    adapters.main(arguments(tmp_path, *more))
    (path,) = tmp_path.glob('*_bfloat16_cpu.json')
    row = json.loads(path.read_text())['contenders']['flora']
    # Rounding to 8 bits, through a whole network.
    assert 1e-4 < row['output_error'] < 0.1


def row(times, held):
    return dict(label='', times=times, bytes_held=held)


def test_targets_are_judged_by_the_median_of_paired_ratios():
    rows = {
        'frozen': row([1.0, 2.0, 1.0], 100),
        # One slow round does not count; ratios 1.2, 1.25, 5.
        'flora': row([1.2, 2.5, 5.0], 111),
        'full': row([1.2, 2.6, 6.0], 111),
    }
    lines = [line.split() for line in report.targets(rows).splitlines()[2:]]
    verdicts = {(*line[:2], line[-1]) for line in lines[:2]}
    assert report.time_ratio(rows, 'flora', 'frozen') == 1.25
    assert verdicts == {
        ('time', '≤', 'met'),
        ('bytes', '≤', 'missed'),
    }
    assert 'not run' in report.targets(rows)
    # As much as full fine-tuning is not ahead of it.
    (bytes_against_full,) = (
        line for line in lines[-2:-1] if line[0] == 'bytes'
    )
    assert bytes_against_full[-1] == 'missed'


def test_targets_hold_for_one_setting_alone(capsys):
    with pytest.raises(SystemExit):
        adapters.parse_args(['--targets', '--model', MODEL])
    assert '--model convnextv2_base' in capsys.readouterr().err
    assert adapters.parse_args(['--targets']).targets
