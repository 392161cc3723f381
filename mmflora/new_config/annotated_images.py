"""The one form that all formats of annotations are read into."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

SPLITS = ('train', 'val', 'test')

TASKS = {
    'boxes': 'boxes',
    'masks': 'objects with masks',
    'rotated': 'rotated boxes',
    'semantic': 'label maps',
}
"""What an annotation may be, and how messages call it."""


@dataclass
class Instance:
    """One annotated object; coordinates in pixels, from the upper left.

    Exactly one of the four forms says where it is; masks may have a box
    beside them.
    """

    label: str
    # x1, y1, x2, y2
    box: tuple[float, float, float, float] | None = None
    # Rings of x1, y1, x2, y2, …; together they are one object.
    polygons: list[list[float]] | None = None
    # COCO's run lengths: dict(size=[h, w], counts=…).
    run_lengths: dict[str, Any] | None = None
    # x1, y1, …, x4, y4: the corners of a rotated box, in order.
    quad: tuple[float, ...] | None = None
    crowd: bool = False
    difficult: bool = False

    @property
    def points(self) -> NDArray[np.float64]:
        """The corners, of shape ``(n, 2)``; of run lengths, of their box."""
        if self.polygons:
            flat: Any = [value for ring in self.polygons for value in ring]
        elif self.quad:
            flat = self.quad
        else:
            flat = self.bounds
        return np.asarray(flat, float).reshape(-1, 2)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The upright box around the object: x1, y1, x2, y2."""
        if self.polygons or self.quad:
            points = self.points
            x1, y1 = points.min(0)
            x2, y2 = points.max(0)
            return float(x1), float(y1), float(x2), float(y2)
        if self.run_lengths:
            x, y, w, h = coco_masks.toBbox(packed(self.run_lengths)).tolist()
            return x, y, x + w, y + h
        if self.box is None:
            raise ValueError(f"the object '{self.label}' has no place")
        return self.box


@dataclass
class AnnotatedImage:
    """One image with its annotations, and what its file turned out to be."""

    path: Path
    # The annotation file, for messages.
    source: Path
    split: str | None = None
    instances: list[Instance] = field(default_factory=list)
    # The file of a label map, of semantic segmentation.
    label_map: Path | None = None
    # Of a label map: the number of pixels of each value.
    pixels: dict[int, int] = field(default_factory=dict)
    # Width and height, as the annotations say.
    declared_size: tuple[int, int] | None = None
    # Width and height of the upright image, as the toolkits load it.
    size: tuple[int, int] = (0, 0)
    # EXIF's orientation: 1 is upright, 5 to 8 swap width and height.
    orientation: int = 1
    # Two images of one content have one digest; the scalar product of the
    # thumbnails says how similar two are, 1 for equal ones.
    digest: str = ''
    thumbnail: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros(0, np.float32)
    )


@dataclass
class ImageSet:
    """All images of a folder."""

    root: Path
    # The root as the user named it.
    named: Path
    format: str
    # A key of TASKS.
    task: str
    images: list[AnnotatedImage]
    classes: list[str]
    # Of label maps: the value in the file, to the index of the class.
    values: dict[int, int] = field(default_factory=dict)
    palette: list[tuple[int, int, int]] | None = None
    # Four corners may be meant as a rotated box or as a polygon.
    either: bool = False
    # Whether the folder said which image is for training.
    has_splits: bool = False

    def split(self, name: str) -> list[AnnotatedImage]:
        """Return the images of one split."""
        return [image for image in self.images if image.split == name]

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Return the number of objects of each class."""
        counts = dict.fromkeys(self.classes, 0)
        for image in self.images:
            if split in (None, image.split):
                for instance in image.instances:
                    counts[instance.label] += 1
        return counts

    def instances(self) -> Iterator[tuple[AnnotatedImage, Instance]]:
        """Yield every object with its image."""
        for image in self.images:
            for instance in image.instances:
                yield image, instance


def packed(run_lengths: dict[str, Any]) -> dict[str, Any]:
    """Return run lengths as pycocotools takes them."""
    counts = run_lengths['counts']
    if isinstance(counts, list):
        height, width = run_lengths['size']
        return coco_masks.frPyObjects(run_lengths, height, width)
    return run_lengths


def mask_of(instance: Instance, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the mask of an object.

    Args:
        instance: The object; of a box or quad, its inside.
        size: Width and height of the image.

    Returns:
        0 and 1, of shape ``(height, width)``.
    """
    width, height = size
    if instance.run_lengths:
        mask: NDArray[np.uint8] = coco_masks.decode(
            packed(instance.run_lengths)
        )
        return mask
    rings = instance.polygons
    if not rings and instance.quad:
        rings = [list(instance.quad)]
    if not rings:
        x1, y1, x2, y2 = instance.bounds
        rings = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    parts = coco_masks.frPyObjects(rings, height, width)
    merged: NDArray[np.uint8] = coco_masks.decode(coco_masks.merge(parts))
    return merged


def run_lengths_of(mask: NDArray[Any]) -> dict[str, Any]:
    """Return a mask as COCO's run lengths, fit for JSON.

    Args:
        mask: True or not 0 inside, of shape ``(height, width)``.
    """
    coded = coco_masks.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return dict(size=list(coded['size']), counts=coded['counts'].decode())
