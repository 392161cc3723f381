"""Checks of the objects: places, classes, sizes."""

import math
from collections import Counter
from typing import Any

import numpy as np

from .annotated_images import (
    AnnotatedImage,
    ImageSet,
    Instance,
    mask_of,
    run_lengths_of,
)
from .findings import Findings
from .readers.reader import LEFT_OUT
from .turned_images import turn_to_upright

# MMDetection drops smaller ones without a word.
_LEAST_SIDE = 1.0


def check_objects(data: ImageSet, findings: Findings) -> None:
    """Check every object of every image, and repair or leave out what fails.

    Args:
        data: Its instances are changed.
        findings: Gets what was wrong.
    """
    _check_classes(data, findings)
    for image in data.images:
        _check_size(image, findings)
        good = []
        seen: Counter[tuple[object, ...]] = Counter()
        for instance in image.instances:
            if not _repaired(instance, image, findings):
                continue
            key = (instance.label, *np.round(instance.points.ravel(), 2))
            if instance.run_lengths:
                key = (*key, instance.run_lengths['counts'])
            seen[key] += 1
            if seen[key] > 1:
                findings.add('twice', image.path, LEFT_OUT, _place(instance))
                continue
            good.append(instance)
        image.instances = good
        if not good and not image.label_map:
            findings.add(
                'empty',
                image.path,
                'kept; most configs skip them in training '
                '(filter_empty_gt=True), and evaluation counts what is '
                'found on them',
            )


def _check_classes(data: ImageSet, findings: Findings) -> None:
    known = {*data.classes}
    for image in data.images:
        for instance in image.instances:
            if instance.label not in known:
                findings.add(
                    'unknown class', image.source, LEFT_OUT, instance.label
                )
        image.instances = [i for i in image.instances if i.label in known]
    alike: dict[str, list[str]] = {}
    for name in data.classes:
        key = ''.join(filter(str.isalnum, name.lower()))
        alike.setdefault(key, []).append(name)
    for names in alike.values():
        if len(names) > 1:
            findings.add(
                'similar names',
                ', '.join(map(repr, names)),
                'kept as classes of their own',
            )


def _check_size(image: AnnotatedImage, findings: Findings) -> None:
    """Compare the size with the annotation's, and turn with EXIF."""
    width, height = image.size
    declared = image.declared_size
    if image.orientation > 1:
        stored = declared == (height, width) != image.size
        stored &= image.orientation > 4
        findings.add(
            'exif',
            image.path,
            'annotations turned with the image'
            if stored
            else 'loaded upright, as the annotations are',
            f'orientation {image.orientation}',
        )
        if stored:
            for instance in image.instances:
                turn_to_upright(instance, image)
            return
    if declared and declared != image.size:
        findings.add(
            'size',
            image.path,
            "the image's own size counts, coordinates stay as they are",
            f'{width}x{height}, in the annotation {declared[0]}x{declared[1]}',
        )


def _repaired(
    instance: Instance, image: AnnotatedImage, findings: Findings
) -> bool:
    """Repair an object; return whether it is one."""
    width, height = image.size
    if instance.run_lengths:
        return _mask_fits(instance, instance.run_lengths, image, findings)
    if instance.box and not instance.polygons:
        x1, y1, x2, y2 = instance.box
        if x2 < x1 or y2 < y1:
            findings.add(
                'corners', image.path, 'put in order', _place(instance)
            )
            instance.box = (
                *(min(x1, x2), min(y1, y2)),
                *(max(x1, x2), max(y1, y2)),
            )
    x1, y1, x2, y2 = instance.bounds
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        findings.add('outside', image.path, LEFT_OUT, _place(instance))
        return False
    if _is_thin(instance):
        findings.add('no area', image.path, LEFT_OUT, _place(instance))
        return False
    over = max(-x1, -y1, x2 - width, y2 - height)
    if over <= 0:
        return True
    if instance.quad:
        center = instance.points.mean(0)
        if not (0 <= center[0] < width and 0 <= center[1] < height):
            findings.add('outside', image.path, LEFT_OUT, _place(instance))
            return False
        # A rotated box that is cut is none any more.
        findings.add('clipped', image.path, 'kept whole', _place(instance))
        return True
    if over >= _LEAST_SIDE:
        findings.add(
            'clipped', image.path, 'cut at the edge', _place(instance)
        )
    _clip(instance, image.size)
    if _is_thin(instance):
        findings.add('no area', image.path, LEFT_OUT, _place(instance))
        return False
    return True


def _clip(instance: Instance, size: tuple[int, int]) -> None:
    width, height = size
    if instance.polygons:
        instance.polygons = [
            [
                min(max(value, 0.0), float(height if i % 2 else width))
                for i, value in enumerate(ring)
            ]
            for ring in instance.polygons
        ]
        instance.box = None
    elif instance.box:
        x1, y1, x2, y2 = instance.box
        instance.box = (
            *(max(x1, 0.0), max(y1, 0.0)),
            *(min(x2, float(width)), min(y2, float(height))),
        )


def _is_thin(instance: Instance) -> bool:
    """Return whether an object has less than a pixel of width or height."""
    if instance.quad:
        a, b, c, d = instance.points
        sides = math.dist(a, b), math.dist(b, c), math.dist(c, d)
        return min(sides[0], sides[1]) < _LEAST_SIDE
    x1, y1, x2, y2 = instance.bounds
    return x2 - x1 < _LEAST_SIDE or y2 - y1 < _LEAST_SIDE


def _mask_fits(
    instance: Instance,
    lengths: dict[str, Any],
    image: AnnotatedImage,
    findings: Findings,
) -> bool:
    """Check run lengths; turn a box that the file has beside them off."""
    width, height = image.size
    size = tuple(lengths['size'])
    if size != (height, width):
        findings.add(
            'map size', image.path, LEFT_OUT, f'a mask of {size[1]}x{size[0]}'
        )
        return False
    instance.box = None
    if _is_thin(instance):
        findings.add('no area', image.path, LEFT_OUT, _place(instance))
        return False
    if isinstance(lengths['counts'], list):
        instance.run_lengths = run_lengths_of(mask_of(instance, image.size))
    return True


def check_label_maps(data: ImageSet, findings: Findings) -> None:
    """Check that label maps are as large as their images."""
    from PIL import Image

    kept = []
    for image in data.images:
        if image.label_map is None:
            continue
        with Image.open(image.label_map) as opened:
            size = opened.size
        stored = image.size[::-1] if image.orientation > 4 else image.size
        if size not in (image.size, stored):
            findings.add(
                'map size',
                image.label_map,
                LEFT_OUT,
                f'{size[0]}x{size[1]}, the image '
                f'{image.size[0]}x{image.size[1]}',
            )
            continue
        if image.orientation > 1:
            findings.add(
                'exif',
                image.path,
                'the label map turned with the image'
                if size == stored != image.size
                else 'loaded upright, as the label map is',
            )
        kept.append(image)
    data.images = kept


def _place(instance: Instance) -> str:
    numbers = ' '.join(f'{v:g}' for v in np.round(instance.bounds, 1))
    return f'{instance.label} {numbers}'
