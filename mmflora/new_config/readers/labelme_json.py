"""LabelMe's JSON: rectangles and polygons."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmflora.new_config.annotated_images import (
    AnnotatedImage,
    ImageSet,
    Instance,
)
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing

from .reader import (
    LEFT_OUT,
    Reader,
    drop_duplicates,
    finite,
    load_json,
    names_in,
    note_unannotated,
)


class LabelMe(Reader):
    """One JSON file per image, with its ``shapes``.

    Shapes of one ``group_id`` and label are the parts of one object.
    """

    name = 'labelme'
    title = 'LabelMe JSON'

    def find(self, listing: Listing) -> list[Path]:
        """Return the JSON files with ``shapes`` and ``imagePath``."""
        return [
            path
            for path in listing.of('.json')
            if isinstance(content := load_json(path), dict)
            and {'shapes', 'imagePath'} <= content.keys()
        ]

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read the files; points and lines have no area and are left out."""
        images = []
        for file in files:
            content = load_json(file)
            path = listing.image(file.stem, file) or listing.image(
                str(content['imagePath']), file
            )
            if path is None:
                findings.add(
                    'no image', file, LEFT_OUT, str(content['imagePath'])
                )
                continue
            image = AnnotatedImage(
                path=path, source=file, split=listing.split_of(path)
            )
            size = content.get('imageWidth'), content.get('imageHeight')
            if all(isinstance(value, int) and value > 0 for value in size):
                image.declared_size = size
            _add_shapes(image, content['shapes'], findings)
            images.append(image)
        images = drop_duplicates(images, findings)
        note_unannotated(listing, images, findings)
        shapes = [i for image in images for i in image.instances]
        polygons = sum(bool(i.polygons) for i in shapes)
        if polygons and polygons < len(shapes):
            for image in images:
                for i in image.instances:
                    if i.quad:
                        i.polygons, i.quad = [list(i.quad)], None
        quads = bool(shapes) and all(i.quad for i in shapes)
        task = 'masks' if polygons else 'rotated' if quads else 'boxes'
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task=task,
            images=images,
            classes=names_in(images, classes),
            either=bool(shapes) and all(len(i.points) == 4 for i in shapes),
            has_splits=any(image.split for image in images),
        )


def _add_shapes(
    image: AnnotatedImage, shapes: Any, findings: Findings
) -> None:
    groups: dict[tuple[str, Any], Instance] = {}
    for number, shape in enumerate(shapes if isinstance(shapes, list) else ()):
        try:
            instance = _instance(shape)
        except (KeyError, TypeError, ValueError) as error:
            findings.add(
                'bad annotation',
                image.source,
                LEFT_OUT,
                f'shape {number}: {error}',
            )
            continue
        group = shape.get('group_id')
        if group is not None and instance.polygons:
            first = groups.setdefault((instance.label, group), instance)
            if first is not instance and first.polygons:
                first.polygons += instance.polygons
                continue
        image.instances.append(instance)


def _instance(shape: Any) -> Instance:
    """Return the object of one shape.

    Raises:
        KeyError: If it has no label or no points.
        TypeError: If a value is none.
        ValueError: If it is no area.
    """
    label, kind = str(shape['label']), shape.get('shape_type') or 'polygon'
    points = [finite(point) for point in shape['points']]
    flat = [value for point in points for value in point]
    if kind == 'rectangle' and len(points) == 2:
        (x1, y1), (x2, y2) = points
        return Instance(
            label, box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        )
    if kind in ('oriented_rectangle', 'rotation') and len(points) == 4:
        return Instance(label, quad=tuple(flat))
    if kind == 'circle' and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * step / 36 for step in range(36)]
        flat = [
            value
            for angle in angles
            for value in (
                x + radius * math.cos(angle),
                y + radius * math.sin(angle),
            )
        ]
        return Instance(label, polygons=[flat])
    if kind in ('polygon', 'rectangle') and len(points) >= 3:
        return Instance(label, polygons=[flat])
    raise ValueError(f'a {kind} of {len(points)} points has no area')
