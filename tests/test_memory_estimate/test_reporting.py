import json
from dataclasses import replace

import pytest

from mmflora.memory_estimate import (
    BatchShape,
    Forecast,
    parse_card,
    reporting,
)
from mmflora.memory_estimate.cards import GIB, needed
from mmflora.memory_estimate.estimate import Estimate
from mmflora.memory_estimate.plot import parts_of, plot
from mmflora.memory_estimate.step import GRADIENTS, STATE, StepRecord


def estimate(images, gigabytes=8):
    """Return a step over 4 GB of weights."""
    blocks = {
        f'backbone.blocks.{index}.mlp.fc1': GIB // 16 for index in range(8)
    }
    held = {**blocks, 'decode_head.conv_seg': GIB // 2, GRADIENTS: GIB // 4}
    peak = gigabytes * GIB + images * GIB
    step = StepRecord(
        activations=blocks,
        gradients=GIB // 4,
        state=GIB // 2,
        peaks={'forward': peak - GIB, 'backward': peak, 'update': GIB},
        at_peak={**held, STATE: GIB // 2},
    )
    weights = {('base', 'bfloat16'): 3 * GIB, ('heads', 'float32'): GIB}
    return Estimate(weights, 0, step, images, 0, {})


def forecast(*cards, **sizes):
    """Return the forecast of options that take so many GB."""
    return Forecast(
        'name',
        BatchShape(2, 504, 504),
        {
            option: (estimate(2, size), estimate(3, size))
            for option, size in sizes.items()
        },
        [parse_card(card) for card in cards],
    )


@pytest.mark.parametrize(
    ('owner', 'component'),
    [
        ('backbone.stages.2.blocks.7.mlp.fc1', 'backbone.stages.2'),
        ('backbone.patch_embed.proj', 'backbone.patch_embed'),
        ('backbone', 'backbone'),
        ('neck.fpn_convs.0.conv', 'neck'),
        ('roi_head.mask_head.convs.1', 'roi_head.mask_head'),
        ('decode_head.psp_modules.0', 'decode_head'),
        (GRADIENTS, GRADIENTS),
    ],
)
def test_components(owner, component):
    assert reporting.component(owner) == component


def test_many_blocks_are_one_component():
    sizes = reporting.by_component(estimate(2).step.activations)
    assert sizes == {'backbone.blocks.*': GIB // 2}
    few = {f'backbone.stages.{i}.blocks.0': i for i in range(4)}
    assert list(reporting.by_component(few)) == [
        f'backbone.stages.{i}' for i in (3, 2, 1, 0)
    ]


def test_assumptions_are_said():
    plain = forecast(configured=8)
    assert 'Assumed' not in plain.about()
    own = replace(estimate(2), assigns=True, positives=128)
    found = replace(plain, pairs={'configured': (own, own)}).about()
    assert 'Assumed: 20 objects (of a segmenter: classes)' in found
    assert '128 per image' in found


def test_terms_name_the_largest():
    table = forecast(configured=8).terms_table()
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
    ]
    assert ['weights: base', 'bfloat16', '3.00'] in rows
    assert ['kept', 'backbone.blocks.*', '0.50'] in rows
    assert ['peak, backward', 'decode_head', '0.50'] in rows
    assert rows[-1] == ['peak', 'with weights', '14.00']


def test_options_say_whether_they_fit():
    table = forecast('24', '12', configured=8, lean=4).options_table()
    lines = table.splitlines()
    assert '24 GB: spare' in lines[0]
    spare = (24 * GIB - needed(estimate(2))) / GIB
    assert f'{spare:+.1f}' in lines[2]


def test_advice_names_what_helps():
    cards = ('24', '13', '5')
    found = forecast(*cards, configured=8, lean=4, large=30)
    fits, lean, none = map(found.advice, found.cards)
    assert fits.startswith('24 GB: fits')
    assert 'lean' in lean
    assert 'large' not in lean
    assert lean.startswith('13 GB: does not fit')
    assert 'No option fits either; the smallest needs' in none
    assert '(lean)' in none
    text = str(found)
    assert all(line in text for line in (fits, lean, none))


def test_json_has_all_figures():
    found = forecast('24', configured=8).as_json()
    read = json.loads(json.dumps(found))['options']['configured']
    own = estimate(2)
    assert read['peak'] == own.peak
    assert read['peaks']['backward'] == own.peak
    assert read['weights'] == {
        'base, bfloat16': 3 * GIB,
        'heads, float32': GIB,
    }
    assert read['cards']['24 GB']['margin'] == 24 * GIB - needed(own)


def test_parts_of_a_bar_add_up():
    own = estimate(2)
    parts = parts_of(own)
    assert sum(parts.values()) == needed(own)
    assert parts['frozen weights'] == 3 * GIB


def test_picture(tmp_path):
    path = tmp_path / 'bars.png'
    plot(forecast('24', a=8, b=4), path)
    assert path.read_bytes().startswith(b'\x89PNG')
