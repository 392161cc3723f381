"""The forecast against the very step, computed on the CPU."""

import dataclasses
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small_swins import SHRUNK

from mmflora.memory_estimate import batch_shape, measure_peak, predict
from mmflora.memory_estimate.estimate import count_real_step

CONFIGS = Path(__file__).parents[2] / 'configs'
VIT = 'flora/upernet_internvit-tiny_flora-r16_shapes-128x128.py'
MASK = 'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py'
ROTATED = 'flora/oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py'
CONVNEXT = 'flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
MASKS = 'flora/mask2former_dinov3-vit-tiny_flora-r16_shapes-128x128.py'
INT8 = 'flora/upernet_internvit-tiny_flora-r16_int8_shapes-128x128.py'


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow, id=str(case))


def read(name, **options):
    """Return a small config with few images, and its batch."""
    if name == INT8:
        pytest.importorskip('bitsandbytes')
    cfg = Config.fromfile(str(CONFIGS / name))
    cfg.merge_from_dict({**SHRUNK.get(name, {}), **options})
    size = (64, 64) if name in SHRUNK else None
    return cfg, batch_shape(cfg, images=2, size=size, objects=5)


def kept(estimate):
    return sum(estimate.step.activations.values())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        (VIT, {}),
        (VIT, {'model.backbone.with_cp': 'mlp'}),
        # Which query gets an object depends on values; not how many do.
        (MASKS, {}),
        *(slow(name, {}) for name in SHRUNK),
        slow(CONVNEXT, {}),
        slow(INT8, {}),
        slow(VIT, {'model.backbone.lean': True}),
        slow(VIT, {'model.backbone.with_cp': True}),
    ],
    ids=str,
)
def test_forecast_is_the_step_to_the_byte(name, options):
    cfg, shape = read(name, **options)
    (forecast,) = predict(cfg, [shape], for_gpu=False)
    assert forecast == count_real_step(cfg, shape)
    assert not forecast.assumed


@pytest.mark.parametrize(
    ('name', 'options', 'of_kept', 'of_peaks'),
    [
        # The proposals of an untrained head are not those that are drawn: a
        # level of the pyramid may have none, and then no gradient of its own.
        slow(MASK, {}, 1e-3, 0.05),
        slow(ROTATED, {}, 1e-3, 0.05),
        # A CPU's norms keep their statistics in float32, fake ones do not.
        slow(VIT, {'model.backbone.autocast': 'bfloat16'}, 1e-3, 1e-3),
    ],
    ids=str,
)
def test_forecast_is_near_the_step(name, options, of_kept, of_peaks):
    cfg, shape = read(name, **options)
    real = count_real_step(cfg, shape)
    (forecast,) = predict(cfg, [shape], for_gpu=False)
    assert forecast.weights == real.weights
    assert forecast.buffers == real.buffers
    assert forecast.step.gradients == real.step.gradients
    assert forecast.step.state == real.step.state
    assert kept(forecast) == pytest.approx(kept(real), rel=of_kept)
    for phase, size in real.step.peaks.items():
        near = pytest.approx(size, rel=of_peaks)
        assert forecast.step.peaks[phase] == near


@pytest.mark.slow
def test_more_images_take_more_by_the_same():
    cfg, shape = read(VIT)
    shapes = [dataclasses.replace(shape, images=n) for n in (2, 3, 4)]
    peaks = [found.step.peak for found in predict(cfg, shapes)]
    first, second = peaks[1] - peaks[0], peaks[2] - peaks[1]
    assert first > 0
    assert second == pytest.approx(first, rel=0.01)


def test_the_same_batch_again_takes_the_same():
    cfg, shape = read(VIT)
    first, second = predict(cfg, [shape, shape])
    assert first == second


@pytest.mark.slow
def test_checkpointing_keeps_least():
    found = []
    for with_cp in (False, 'mlp', True):
        cfg, shape = read(VIT, **{'model.backbone.with_cp': with_cp})
        found.append(kept(predict(cfg, [shape])[0]))
    assert found[0] > found[1] > found[2]


def test_optimizers_are_the_config_s():
    cfg, shape = read(VIT)
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.0)
    (adam,) = predict(cfg, [shape])
    cfg.optim_wrapper.optimizer = dict(sgd, momentum=0.9)
    (momentum,) = predict(cfg, [shape])
    cfg.optim_wrapper.optimizer = sgd
    (plain,) = predict(cfg, [shape])
    assert adam.step.state == 2 * adam.step.gradients
    assert momentum.step.state == momentum.step.gradients
    assert plain.step.state == 0


@pytest.mark.slow
def test_second_stages_are_full():
    cfg, shape = read(MASK)
    sampler = cfg.model.train_cfg.rcnn.sampler
    (forecast,) = predict(cfg, [shape])
    assert forecast.positives == int(sampler.num * sampler.pos_fraction)
    assert not forecast.assumed


@pytest.mark.gpu
@pytest.mark.parametrize(
    'name', [VIT, MASK, CONVNEXT, ROTATED, INT8, MASKS, *SHRUNK]
)
def test_forecast_is_what_the_gpu_says(name):
    cfg, shape = read(name)
    measured = measure_peak(cfg, shape)
    assert predict(cfg, [shape])[0].peak == pytest.approx(measured, rel=0.1)
