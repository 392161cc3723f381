"""The command line of tools/estimate_memory.py."""

import json
from functools import partial

import pytest

from .conftest import CONFIGS, load_tool, refused

TWIN = CONFIGS / 'flora/upernet_internvit-tiny_flora-r16_shapes-128x128.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool('estimate_memory')


@pytest.fixture
def run(tool, run_main):
    return partial(run_main, tool)


@pytest.mark.slow
def test_a_forecast_with_files(run, tmp_path):
    figures, picture = tmp_path / 'figures.json', tmp_path / 'bars.png'
    printed = run(
        *(TWIN, '--gpu', '8GB', '24', '--batch', 2),
        *('--out', figures, '--plot', picture),
    )
    assert '2 images of 128x128' in printed.out
    assert '8 GB: fits' in printed.out
    assert '24 GB: fits' in printed.out
    assert '| with_cp=False ' in printed.out
    read = json.loads(figures.read_text())
    # Progress tells each option, apart from the report.
    assert f'1/{len(read["options"])} as configured: peak' in printed.err
    own, plain = (
        sum(read['options'][name]['kept'].values())
        for name in ('as configured', 'with_cp=False')
    )
    assert own < plain
    assert read['batch']['images'] == 2
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_as_it_is_without_room(run):
    words = ('--as-is', '--gpu', '1', '--size', '96x64', '--batch', '2')
    printed = run(TWIN, *words)
    assert '2 images of 96x64 (as given)' in printed.out
    assert '1 GB: does not fit' in printed.out
    assert 'No option fits either' in printed.out
    assert 'lean=True' not in printed.out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--gpu', 'A100'), "--gpu: 'A100' is no memory size"),
        (('--size', 'big'), "--size: 'big' is no image size"),
        (('--batch', '0'), '0 images'),
        (('--out', '/nowhere/x.json'), '--out: the folder'),
        (('--plot', '/nowhere/x.png'), '--plot: the folder'),
        (
            ('--cfg-options', 'optim_wrapper=None'),
            'no config of a training: it has no optim_wrapper',
        ),
    ],
)
def test_bad_arguments(run, words, message):
    assert message in refused(run, TWIN, *words)


def test_bad_configs(run, tmp_path):
    base = CONFIGS / '_base_/models/upernet_convnextv2-l.py'
    assert 'train_dataloader' in refused(run, base)
    assert 'Config not found' in refused(run, tmp_path / 'none.py')
    broken = tmp_path / 'broken.py'
    broken.write_text('model = dict(')
    assert 'cannot be read as a config' in refused(run, broken)


def test_measuring_needs_a_gpu(run, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    words = ('--as-is', '--batch', 2, '--measure')
    assert '--measure runs a step on a GPU' in refused(run, TWIN, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'flora/mask-rcnn_convnextv2-l_flora-r16_coco.py',
        'flora/oriented-rcnn-le90_convnextv2-l_flora-r16_dota.py',
        'flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py',
        'flora/upernet_internvit-6b_flora-r16_ade20k-504x504.py',
    ],
)
def test_large_ones_in_little_memory(run, name, tmp_path):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = tmp_path / 'figures.json'
    run(CONFIGS / name, '--as-is', '--out', figures)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    own = json.loads(figures.read_text())['options']['as configured']
    assert own['peak'] > 4 * 2**30
    assert grown * 1024 < 2 * 2**30
