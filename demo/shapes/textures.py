"""Patterns that fill an area.

A pattern says how much of the second of two colors each pixel takes.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.float32]


def _waves(
    rng: Generator, shape: tuple[int, int], period: float, directions: int
) -> list[Field]:
    """Sine waves between -1 and 1, at right angles to each other."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    waves = []
    for k in range(directions):
        cos, sin = np.cos(angle + k * np.pi / 2), np.sin(angle + k * np.pi / 2)
        phase = rng.uniform(0, 2 * np.pi)
        along = (columns * cos + rows * sin) * (2 * np.pi / period) + phase
        waves.append(np.sin(along).astype(np.float32))
    return waves


def _steps(wave: Field) -> Field:
    """Turn a wave into stripes with soft edges."""
    return np.clip(wave * 2.5 + 0.5, 0, 1)


def stripes(rng: Generator, shape: tuple[int, int], period: float) -> Field:
    """Parallel stripes in any direction."""
    return _steps(_waves(rng, shape, period, 1)[0])


def checks(rng: Generator, shape: tuple[int, int], period: float) -> Field:
    """A checkerboard in any direction."""
    first, second = _waves(rng, shape, 1.6 * period, 2)
    return _steps(2 * first * second)


def dots(rng: Generator, shape: tuple[int, int], period: float) -> Field:
    """Dots on a grid in any direction."""
    first, second = _waves(rng, shape, 1.2 * period, 2)
    return _steps(first + second - 1.0)


def clouds(rng: Generator, shape: tuple[int, int], period: float) -> Field:
    """Smooth random blotches."""
    grid = tuple(int(side / period) + 2 for side in shape)
    coarse = rng.random(grid, dtype=np.float32)
    field = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(field * 1.4 - 0.2, 0, 1).astype(np.float32)


TEXTURES: tuple[Callable[[Generator, tuple[int, int], float], Field], ...] = (
    stripes,
    checks,
    dots,
    clouds,
)


def draw_texture(
    rng: Generator, shape: tuple[int, int], period: float
) -> Field:
    """Draw one of the patterns.

    Args:
        rng: Decides which pattern, and its direction and phase.
        shape: Height and width.
        period: Of the pattern, in pixels.

    Returns:
        Values between 0 and 1 of that shape.
    """
    return TEXTURES[rng.integers(len(TEXTURES))](rng, shape, period)
