"""The forecast against the very step, computed on the CPU."""

import dataclasses
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmflora.memory_estimate import (
    batch_shape,
    count_real_step,
    measure_peak,
    predict,
    predict_batches,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
VIT = 'flora/upernet_internvit-tiny_flora-r16_shapes-128x128.py'
MASK = 'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py'
SLOW_TWINS = [
    'flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py',
    'flora/oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py',
    'flora/upernet_internvit-tiny_flora-r16_int8_shapes-128x128.py',
]
TWINS = [
    *(VIT, MASK),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_TWINS),
]


def read(name, **options):
    """Return a small config with few images, and its batch."""
    if 'int8' in name:
        pytest.importorskip('bitsandbytes')
    cfg = Config.fromfile(str(CONFIGS / name))
    cfg.merge_from_dict(options)
    return cfg, batch_shape(cfg, images=2, objects=5)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('name', TWINS)
def test_forecast_is_what_the_step_takes(name):
    cfg, shape = read(name)
    real = count_real_step(cfg, shape, 'cpu')
    forecast = predict(cfg, shape, 'cpu')
    assert forecast.weights == real.weights
    assert forecast.buffers == real.buffers
    assert forecast.step.gradients == real.step.gradients
    assert forecast.step.state == real.step.state
    kept, expected = (
        sum(estimate.step.activations.values())
        for estimate in (forecast, real)
    )
    assert kept == pytest.approx(expected, rel=0.01)
    for phase, size in real.step.peaks.items():
        assert forecast.step.peaks[phase] == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize(
    'option',
    [
        {'model.backbone.with_cp': 'mlp'},
        *(
            pytest.param(option, marks=pytest.mark.slow)
            for option in (
                {'model.backbone.lean': True},
                {'model.backbone.with_cp': True},
                {'model.backbone.autocast': 'bfloat16'},
            )
        ),
    ],
    ids=str,
)
def test_options_of_the_backbone_are_followed(option):
    cfg, shape = read(VIT, **option)
    real = count_real_step(cfg, shape, 'cpu')
    forecast = predict(cfg, shape, 'cpu')
    assert sum(forecast.step.activations.values()) == pytest.approx(
        sum(real.step.activations.values()), rel=0.01
    )
    assert forecast.peak == pytest.approx(real.peak, rel=0.05)


@pytest.mark.slow
def test_more_images_take_more_by_the_same():
    cfg, shape = read(VIT)
    shapes = [dataclasses.replace(shape, images=n) for n in (2, 3, 4)]
    peaks = [found.step.peak for found in predict_batches(cfg, shapes)]
    first, second = peaks[1] - peaks[0], peaks[2] - peaks[1]
    assert first > 0
    assert second == pytest.approx(first, rel=0.01)


@pytest.mark.slow
def test_on_a_gpu_checkpointing_keeps_least():
    kept = []
    for with_cp in (False, 'mlp', True):
        cfg, shape = read(VIT, **{'model.backbone.with_cp': with_cp})
        forecast = predict(cfg, shape)
        kept.append(sum(forecast.step.activations.values()))
    assert kept[0] > kept[1] > kept[2]


def test_optimizers_are_the_config_s():
    cfg, shape = read(VIT)
    adam = predict(cfg, shape)
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.0)
    cfg.optim_wrapper.optimizer = dict(sgd, momentum=0.9)
    momentum = predict(cfg, shape)
    cfg.optim_wrapper.optimizer = sgd
    plain = predict(cfg, shape)
    assert adam.step.state == 2 * adam.step.gradients
    assert momentum.step.state == momentum.step.gradients
    assert plain.step.state == 0


@pytest.mark.slow
def test_second_stages_are_full():
    cfg, shape = read(MASK)
    sampler = cfg.model.train_cfg.rcnn.sampler
    forecast = predict(cfg, shape)
    assert forecast.positives == int(sampler.num * sampler.pos_fraction)
    assert not forecast.assumed


@pytest.mark.gpu
@pytest.mark.parametrize('name', [VIT, MASK, *SLOW_TWINS])
def test_forecast_is_what_the_gpu_says(name):
    cfg, shape = read(name)
    measured = measure_peak(cfg, shape)
    assert predict(cfg, shape).peak == pytest.approx(measured, rel=0.1)
