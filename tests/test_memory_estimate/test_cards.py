import pytest

from mmflora.memory_estimate.cards import (
    CONTEXT,
    FRAGMENTATION,
    GIB,
    WORKSPACES,
    needed,
    parse_card,
    room,
)
from mmflora.memory_estimate.estimate import Estimate
from mmflora.memory_estimate.step import StepRecord


def estimate(images, weights=10 * GIB, fixed=2 * GIB, each=GIB):
    """Return a step that takes ``fixed`` and so much for each image."""
    peak = fixed + images * each
    step = StepRecord({}, 0, 0, {'forward': 0, 'backward': peak}, {})
    return Estimate({('base', 'float32'): weights}, 0, step, images, 0, {})


@pytest.mark.parametrize(
    ('text', 'gigabytes'),
    [('24GB', 24), ('24', 24), ('24 GiB', 24), ('11.5g', 11.5)],
)
def test_sizes(text, gigabytes):
    card = parse_card(text)
    assert card.memory == gigabytes * GIB
    assert card.name == f'{gigabytes:g} GB'


@pytest.mark.parametrize('text', ['', 'A100', '24MB', '-1', '0', '1e3', '9,5'])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match='--gpu: .*24GB'):
        parse_card(text)


def test_needs_have_the_allowances():
    step = estimate(4)
    assert step.peak == 16 * GIB
    assert needed(step) == (
        16 * GIB + CONTEXT + WORKSPACES + int(6 * GIB * FRAGMENTATION)
    )


def test_room_is_for_as_many_images_as_fit():
    small, large = estimate(4), estimate(5)
    card = parse_card('24GB')
    found = room(card, small, large)
    assert found.margin == card.memory - needed(small) > 0
    assert needed(estimate(found.largest_batch)) <= card.memory
    assert needed(estimate(found.largest_batch + 1)) > card.memory


def test_no_room():
    card = parse_card('8')
    found = room(card, estimate(4), estimate(5))
    assert found.margin < 0
    assert found.largest_batch == 0


def test_fewer_images_than_the_model_needs_are_none():
    small, large = estimate(2), estimate(3)
    card = parse_card(f'{needed(estimate(1)) / GIB:.3f}')
    assert room(card, small, large).largest_batch == 1
    assert room(card, small, large, fewest=2).largest_batch == 0


def test_images_that_cost_nothing():
    card = parse_card('24')
    flat = [estimate(images, each=0) for images in (2, 3)]
    assert room(card, *flat).largest_batch == 2


def test_the_other_must_be_larger():
    with pytest.raises(ValueError, match='not more than the 4'):
        room(parse_card('24'), estimate(4), estimate(4))
