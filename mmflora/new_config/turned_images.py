"""Annotations of images that EXIF turns, in the frame of the upright image.

OpenCV and hence the toolkits turn an image as its EXIF tag says. Annotations
made on the image as it is stored have to be turned with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .annotated_images import (
    AnnotatedImage,
    Instance,
    mask_of,
    run_lengths_of,
)

_TO_UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""What EXIF's orientations do to an array of shape ``(height, width, …)``."""


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array as EXIF turns the image that it belongs to."""
    turned: NDArray[Any] = _TO_UPRIGHT[orientation](array)
    return np.ascontiguousarray(turned)


def turn_to_upright(instance: Instance, image: AnnotatedImage) -> None:
    """Turn an object of the stored image, in place."""
    if instance.run_lengths:
        stored = image.size[::-1] if image.orientation > 4 else image.size
        mask = upright(mask_of(instance, stored), image.orientation)
        instance.run_lengths = run_lengths_of(mask)
        instance.box = None
        return
    if instance.polygons:
        instance.polygons = [_turned(r, image) for r in instance.polygons]
    if instance.quad:
        instance.quad = tuple(_turned(list(instance.quad), image))
    if instance.box:
        ring = _turned(list(instance.box), image)
        xs, ys = sorted(ring[::2]), sorted(ring[1::2])
        instance.box = (xs[0], ys[0], xs[1], ys[1])


def _turned(ring: list[float], image: AnnotatedImage) -> list[float]:
    """Turn points of the stored image, ``x1, y1, x2, y2, …``."""
    width, height = image.size
    x, y = np.asarray(ring, float).reshape(-1, 2).T
    turned = {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (width - y, x),
        7: (width - y, height - x),
        8: (y, height - x),
    }[image.orientation]
    flat: list[float] = np.stack(turned, 1).ravel().tolist()
    return flat
