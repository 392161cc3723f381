"""The classes of the generated data sets, and their outlines.

An outline stands in its own frame: its extent is the unit box, which an
object stretches to its width and height, turns and moves. The same turned
box is the object's oriented box, so that polygon and box agree by
construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

UNIT_BOX: Points = np.array(
    [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
)
"""Corners in the order of DOTA: top left first, then clockwise."""


@dataclass(frozen=True)
class ShapeClass:
    """One class: what it looks like before it is placed.

    Args:
        outline: Vertices in the unit box. Shape ``(n, 2)``.
        aspect: Smallest and largest width over height.
        symmetry: How many turns within 360 degrees look the same; 0 means
            every turn.
        color: RGB in which overlays draw the class. It has nothing to do
            with the colors of the objects in a picture.
    """

    outline: Points
    aspect: tuple[float, float]
    symmetry: int
    color: tuple[int, int, int]


def _fit_unit_box(points: Points) -> Points:
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low)


def _on_circle(count: int, radius: float = 1.0, turn: float = 0.0) -> Points:
    angles = 2 * np.pi * (np.arange(count) + turn) / count - np.pi / 2
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int, inner: float) -> Points:
    tips, dents = _on_circle(points), _on_circle(points, inner, turn=0.5)
    return np.stack([tips, dents], axis=1).reshape(-1, 2)


def _cross(arm: float) -> Points:
    quarter = np.array([(-arm, -1.0), (arm, -1.0), (arm, -arm)])
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
    return np.concatenate(
        [quarter @ np.linalg.matrix_power(turn, k) for k in range(4)]
    )


def _shape_classes() -> Mapping[str, ShapeClass]:
    star = _star(5, inner=0.45)
    star_aspect = float(np.divide(*np.ptp(star, axis=0)))
    triangle = np.array([(0.0, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    table: dict[str, tuple[Points, tuple[float, float], int, str]] = {
        'circle': (_on_circle(40), (1.0, 1.0), 0, '#2a9df4'),
        # Taller than wide, so that its apex, and with it its box, is clear.
        'triangle': (triangle, (0.75, 0.95), 1, '#f0386b'),
        'square': (UNIT_BOX, (1.0, 1.0), 4, '#34c77b'),
        'bar': (UNIT_BOX, (2.5, 4.0), 2, '#ffb700'),
        'star': (star, (star_aspect, star_aspect), 5, '#a765f7'),
        'cross': (_cross(0.34), (1.0, 1.0), 4, '#e8560c'),
    }
    return {
        name: ShapeClass(
            _fit_unit_box(outline), aspect, symmetry, hex_to_rgb(color)
        )
        for name, (outline, aspect, symmetry, color) in table.items()
    }


def hex_to_rgb(color: str) -> tuple[int, int, int]:
    """Read ``'#rrggbb'``."""
    red, green, blue = bytes.fromhex(color.removeprefix('#'))
    return red, green, blue


SHAPES = _shape_classes()
CLASSES: tuple[str, ...] = tuple(SHAPES)
"""Class names; category ``k`` of COCO and label ``k`` of ADE20K, counted
from 1, are ``CLASSES[k - 1]``."""
PALETTE: tuple[tuple[int, int, int], ...] = tuple(
    shape.color for shape in SHAPES.values()
)


def plainest_turn(angle: float, symmetry: int) -> float:
    """Choose, among the turns that look the same, the most upright one.

    A star turned by 72 degrees is the same picture with another box; one
    rule for which box it gets makes the oriented box a function of the
    picture.

    Args:
        angle: Degrees.
        symmetry: See :class:`ShapeClass`.

    Returns:
        The equivalent angle whose box is nearest to an upright one.
    """
    if symmetry == 0:
        return 0.0
    turns = [angle + 360 / symmetry * k for k in range(symmetry)]
    return min(turns, key=lambda turn: abs((turn + 45) % 90 - 45))


def place(
    points: Points,
    center: tuple[float, float],
    width: float,
    height: float,
    angle: float,
) -> Points:
    """Stretch, turn and move points of the unit box.

    Args:
        points: Shape ``(n, 2)``.
        center: Where the middle of the box goes, in pixels.
        width: Of the box before the turn, in pixels.
        height: Likewise.
        angle: Degrees, clockwise in the picture.

    Returns:
        Pixels; pixel ``(i, j)`` covers ``[i, i + 1) x [j, j + 1)``. Shape
        ``(n, 2)``.
    """
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([(cos, sin), (-sin, cos)])
    return points * (width, height) @ turn + np.asarray(center)
