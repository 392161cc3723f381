"""Draw a scene: some objects on a ground, and where exactly they are.

Objects and their oriented boxes lie inside the picture, and no two objects
touch, so an object's visible part is all of it: mask, box and oriented box
leave no room for interpretation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .classes import CLASSES, SHAPES, UNIT_BOX, Points, place, plainest_turn
from .domains import Color, Domain
from .textures import clouds, draw_texture

UNLABELLED = 0
BACKGROUND = len(CLASSES) + 1

_OVERSAMPLING = 8
_SUBPIXEL_BITS = 6
_GAP = 2
_TRIES = 60


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Args:
        label: Index into ``CLASSES``.
        polygon: Outline in pixels, as drawn. Shape ``(n, 2)``.
        corners: Oriented box in the order of ``UNIT_BOX``. Shape ``(4, 2)``.
    """

    label: int
    polygon: Points
    corners: Points


@dataclass(frozen=True)
class Scene:
    """A picture and its annotations.

    Args:
        image: RGB. Shape ``(side, side, 3)``.
        label_map: 1 to ``len(CLASSES)`` for the classes, ``BACKGROUND``,
            and ``UNLABELLED`` where an edge mixes both in one pixel. Shape
            ``(side, side)``.
        objects: At least one.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Stencil:
    """The part of each pixel that a polygon covers, where it is not 0."""

    window: tuple[slice, slice]
    coverage: NDArray[np.float32]


def _stencil(polygon: Points) -> _Stencil:
    low = np.floor(polygon.min(axis=0)).astype(int)
    size = np.ceil(polygon.max(axis=0)).astype(int) - low
    fine = np.zeros(size[::-1] * _OVERSAMPLING, np.uint8)
    # OpenCV counts from the middle of the first pixel, polygons from its
    # corner.
    points = (polygon - low) * _OVERSAMPLING - 0.5
    fixed = np.rint(points * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(fine, [fixed], 255, shift=_SUBPIXEL_BITS)
    coverage = cv2.resize(
        fine.astype(np.float32) / 255,
        size.tolist(),
        interpolation=cv2.INTER_AREA,
    )
    (left, top), (width, height) = low.tolist(), size.tolist()
    window = (slice(top, top + height), slice(left, left + width))
    return _Stencil(window, coverage)


def _draw_object(
    rng: Generator, domain: Domain, side: int, label: int
) -> SceneObject | None:
    """Draw size, turn and place; None when it does not fit."""
    shape = SHAPES[CLASSES[label]]
    size = side * np.exp(rng.uniform(*np.log(domain.size)))
    stretch = np.sqrt(np.exp(rng.uniform(*np.log(shape.aspect))))
    angle = plainest_turn(
        rng.uniform(-domain.tilt, domain.tilt), shape.symmetry
    )
    box = (size * stretch, size / stretch, angle)
    reach = np.abs(place(UNIT_BOX, (0, 0), *box)).max(axis=0) + 1
    if (2 * reach > side).any():
        return None
    x, y = rng.uniform(reach, side - reach)
    # What is written with two decimals is what is drawn.
    return SceneObject(
        label,
        *(
            np.round(place(points, (x, y), *box), 2)
            for points in (shape.outline, UNIT_BOX)
        ),
    )


def _arrange(
    rng: Generator, domain: Domain, side: int, first: int
) -> list[tuple[SceneObject, _Stencil]]:
    """Place objects that do not touch, the first of a given class."""
    labels = rng.integers(len(CLASSES), size=domain.count[1])
    labels[0] = first
    taken = np.zeros((side, side), bool)
    reach = np.ones((2 * _GAP + 1, 2 * _GAP + 1), np.uint8)
    arranged: list[tuple[SceneObject, _Stencil]] = []
    for label in labels[: rng.integers(domain.count[0], domain.count[1] + 1)]:
        for _ in range(_TRIES):
            thing = _draw_object(rng, domain, side, int(label))
            if thing is None:
                continue
            stencil = _stencil(thing.polygon)
            covered = stencil.coverage > 0
            if (taken[stencil.window] & covered).any():
                continue
            arranged.append((thing, stencil))
            occupied = np.zeros((side, side), np.uint8)
            occupied[stencil.window] = covered
            taken |= cv2.dilate(occupied, reach).astype(bool)
            break
    return arranged


def _fill(
    rng: Generator,
    domain: Domain,
    color: Color,
    shape: tuple[int, int],
    side: int,
) -> NDArray[np.float32]:
    """Paint an area of the given height and width: ``(*shape, 3)``."""
    first = np.array(color, np.float32)
    if not domain.textured:
        return np.broadcast_to(first, (*shape, 3)).copy()
    second = (first * rng.uniform(0.7, 0.9)).astype(np.float32)
    period = side * rng.uniform(0.045, 0.1)
    field = draw_texture(rng, shape, period)[..., None]
    return first + (second - first) * field


def _finish(
    rng: Generator, domain: Domain, canvas: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Add light and grain, which are gray."""
    side = canvas.shape[0]
    if domain.shading:
        patches = clouds(rng, (side, side), side * rng.uniform(0.12, 0.2))
        canvas = canvas + domain.shading * (2 * patches[..., None] - 1)
    if domain.noise:
        canvas = canvas + domain.noise * rng.standard_normal(
            (side, side, 1), dtype=np.float32
        )
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def draw_scene(rng: Generator, domain: Domain, side: int, first: int) -> Scene:
    """Draw one scene.

    Args:
        rng: Decides everything that is not given.
        domain: The look.
        side: Height and width in pixels.
        first: Class index of the first object, which is always there.

    Raises:
        RuntimeError: The domain's objects are too large for a picture.
    """
    arranged = _arrange(rng, domain, side, first)
    if not arranged:
        raise RuntimeError(
            f'Found no place for a {CLASSES[first]!r} of {domain.size} of '
            f'the side in a picture of {side} pixels; make the largest size '
            'of the domain smaller.'
        )
    ground = domain.grounds[rng.integers(len(domain.grounds))]
    canvas = _fill(rng, domain, ground, (side, side), side)
    label_map = np.full((side, side), BACKGROUND, np.uint8)
    for thing, stencil in arranged:
        coverage = stencil.coverage
        height, width = coverage.shape
        ink = domain.inks[thing.label]
        paint = _fill(rng, domain, ink, (height, width), side)
        area = canvas[stencil.window]
        area += (paint - area) * coverage[..., None]
        labels = label_map[stencil.window]
        labels[coverage > 0] = UNLABELLED
        labels[coverage == 1] = thing.label + 1
    return Scene(
        _finish(rng, domain, canvas),
        label_map,
        tuple(thing for thing, _ in arranged),
    )
