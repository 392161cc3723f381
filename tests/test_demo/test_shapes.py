import numpy as np
import pytest

from demo.shapes.classes import (
    CLASSES,
    PALETTE,
    SHAPES,
    UNIT_BOX,
    hex_to_rgb,
    place,
    plainest_turn,
)


def area(polygon):
    x, y = np.asarray(polygon).T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


# Part of the box that the outline fills, from each figure's own formula.
FILLED = dict(
    circle=40 / 2 * np.sin(2 * np.pi / 40) / 4,
    triangle=1 / 2,
    square=1.0,
    bar=1.0,
    star=5
    * 0.45
    * np.sin(np.pi / 5)
    / (2 * np.sin(2 * np.pi / 5) * (1 + np.cos(np.pi / 5))),
    cross=(4 * 0.34 * 2 - 4 * 0.34**2) / 4,
)


@pytest.mark.parametrize('name', CLASSES)
def test_outline_fills_the_unit_box(name):
    outline = SHAPES[name].outline
    np.testing.assert_allclose(outline.min(axis=0), -0.5)
    np.testing.assert_allclose(outline.max(axis=0), 0.5)
    assert area(outline) == pytest.approx(FILLED[name], rel=1e-9)


@pytest.mark.parametrize('name', CLASSES)
def test_symmetry_is_what_the_outline_shows(name):
    shape = SHAPES[name]
    aspect = np.mean(shape.aspect)
    points = place(shape.outline, (0, 0), aspect, 1.0, 0.0)
    # A star turns about the middle of its tips, not of its box.
    points = points - points.mean(axis=0)
    turns = [
        k
        for k in range(2, 41)
        if set(map(tuple, np.round(points, 6) + 0.0))
        == set(
            map(
                tuple,
                np.round(place(points, (0, 0), 1.0, 1.0, 360 / k), 6) + 0.0,
            )
        )
    ]
    if name == 'circle':
        assert max(turns) == 40
    else:
        assert max(turns, default=1) == shape.symmetry


def test_elongated_classes_exist_and_are_told_from_squares():
    assert min(SHAPES['bar'].aspect) >= 2.5
    assert SHAPES['square'].aspect == (1.0, 1.0)


def test_overlay_colors_are_distinct():
    assert len(set(PALETTE)) == len(CLASSES) == 6
    assert hex_to_rgb('#0a10ff') == (10, 16, 255)


@pytest.mark.parametrize(
    ('angle', 'symmetry', 'expected'),
    [
        (33.0, 0, 0.0),
        (33.0, 1, 33.0),
        (-170.0, 1, -170.0),
        (80.0, 4, 80.0),
        (20.0, 5, -268 + 360.0),
        (72.0, 5, 0.0),
        (5.0, 5, 5.0),
    ],
)
def test_plainest_turn(angle, symmetry, expected):
    turned = plainest_turn(angle, symmetry)
    assert (turned - expected + 180) % 360 == pytest.approx(180)


def test_star_boxes_are_at_most_9_degrees_off():
    for angle in np.linspace(-180, 180, 721):
        turn = plainest_turn(angle, 5)
        assert abs((turn + 45) % 90 - 45) <= 9 + 1e-9
        assert (turn - angle) % 72 == pytest.approx(0, abs=1e-9) or (
            turn - angle
        ) % 72 == pytest.approx(72, abs=1e-9)


def test_place_turns_clockwise_in_the_picture():
    corners = place(UNIT_BOX, (10.0, 20.0), 4.0, 2.0, 90.0)
    # The top left corner of a box 4 wide goes to the top right.
    expected = [(11, 18), (11, 22), (9, 22), (9, 18)]
    np.testing.assert_allclose(corners, expected, atol=1e-12)
