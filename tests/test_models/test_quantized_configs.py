"""The configs over a quantized base: as those without, but for that."""

from pathlib import Path

import pytest
from mmengine.config import Config

import mmflora  # noqa: F401
from mmflora.adapters.quantized import Scheme
from mmflora.adapters.quantized_base import quantized_weights
from mmflora.count.parameters import build_on_meta, count_model

CONFIGS = Path(__file__).parents[2] / 'configs'
SCHEMES = dict(int8=Scheme(8, 'int8', 64), nf4=Scheme(4, 'nf4', 64))
PAIRS = [
    (path.name, way)
    for way in SCHEMES
    for path in sorted(CONFIGS.glob(f'flora/*internvit*_{way}_*.py'))
]


def read(name):
    return Config.fromfile(str(CONFIGS / 'flora' / name))


def test_both_ways_are_there_for_all_sizes():
    assert [name.replace(way, '*') for name, way in PAIRS[:3]] == [
        name.replace(way, '*') for name, way in PAIRS[3:]
    ]
    assert len(PAIRS) == 6


@pytest.mark.parametrize(('name', 'way'), PAIRS)
def test_all_else_is_as_without(name, way):
    cfg, plain = read(name), read(name.replace(f'_{way}', ''))
    quantize = cfg.model.backbone.peft.pop('quantize')
    assert cfg.model == plain.model
    for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader'):
        assert cfg[key] == plain[key]
    scheme = SCHEMES[way]
    assert quantize.bits == scheme.bits
    assert quantize.get('quant_type', scheme.quant_type) == scheme.quant_type


@pytest.mark.parametrize(
    ('name', 'way'), [pair for pair in PAIRS if '-tiny_' in pair[0]]
)
def test_counts_are_as_without(name, way):
    model = build_on_meta(read(name))
    plain = build_on_meta(read(name.replace(f'_{way}', '')))
    assert count_model(model) == count_model(plain)
    backbone = model.backbone
    stored = quantized_weights(backbone)
    assert len(stored) == 4 * len(backbone.blocks)
    assert {weight.scheme for weight in stored.values()} == {SCHEMES[way]}
