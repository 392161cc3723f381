"""YOLO's labels: boxes, polygons and rotated boxes."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from mmflora.new_config.annotated_images import (
    AnnotatedImage,
    ImageSet,
    Instance,
)
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing, read_text

from .reader import LEFT_OUT, Reader, finite

_NAME_FILES = ('classes.txt', 'obj.names', 'labels.txt', 'names.txt')
_BOX, _QUAD = 5, 9
# EXIF's orientations that swap width and height.
_TURNED = (5, 6, 7, 8)


class YoloLabels(Reader):
    """One text file per image, ``class x y w h`` or ``class x1 y1 …`` a line.

    Numbers are parts of the image's width and height. An image without a
    file is one without objects.
    """

    name = 'yolo'
    title = 'YOLO labels'

    def find(self, listing: Listing) -> list[Path]:
        """Return the label files: lines of a class's number and parts."""
        texts = [f for f in listing.of('.txt') if f.name not in _NAME_FILES]
        sure = {path for path in texts if _looks_like(path)}
        return listing.beside(sure, texts)

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read the files, and the names of data.yaml or classes.txt."""
        settings = _settings(listing)
        names = list(classes or _names(listing, settings))
        keypoints = settings.get('kpt_shape')
        skip = keypoints[0] * keypoints[1] if keypoints else 0
        images: dict[Path, AnnotatedImage] = {}
        widths: set[int] = set()
        for file in files:
            path = listing.image(file.stem, file)
            if path is None:
                findings.add('no image', file, LEFT_OUT)
                continue
            if path in images:
                findings.add(
                    'duplicate id', path, 'the first file counts', file.name
                )
                continue
            images[path] = AnnotatedImage(path=path, source=file)
            widths |= _add(images[path], names, skip, findings)
        for path in listing.images:
            images.setdefault(path, AnnotatedImage(path=path, source=path))
        splits = _split_folders(listing, settings)
        for path, image in images.items():
            places = (path, *path.parents)
            named = [splits[place] for place in places if place in splits]
            image.split = named[0] if named else listing.split_of(path)
        task = 'boxes'
        if widths - {_BOX}:
            task = 'rotated' if widths == {_QUAD} else 'masks'
        if task == 'rotated':
            for image in images.values():
                for i in image.instances:
                    i.quad, i.polygons = tuple(i.points.ravel()), None
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task=task,
            images=list(images.values()),
            classes=names,
            either=task == 'rotated',
            has_splits=any(image.split for image in images.values()),
        )


def _add(
    image: AnnotatedImage, names: list[str], skip: int, findings: Findings
) -> set[int]:
    """Add the objects of a label file; return the numbers of words a line."""
    widths = set()
    lines = read_text(image.source).splitlines()
    try:
        with Image.open(image.path) as file:
            width, height = file.size
            if file.getexif().get(0x0112, 1) in _TURNED:
                width, height = height, width
    except (OSError, ValueError):
        return set()  # the check of the images reports it
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f'line {number}'
        try:
            key = int(float(words[0]))
            numbers = finite(words[1:])
            if skip and len(words) == _BOX + skip:
                numbers = numbers[: _BOX - 1]
            if len(numbers) == _BOX:  # a confidence at the end
                numbers.pop()
            if len(numbers) < _BOX - 1 or len(numbers) % 2:
                raise ValueError(f'{len(words)} numbers')
        except ValueError as error:
            findings.add(
                'bad annotation', image.source, LEFT_OUT, f'{where}: {error}'
            )
            continue
        if not 0 <= key < len(names):
            findings.add(
                'unknown class', image.source, LEFT_OUT, f'{where}: {key}'
            )
            continue
        instance = Instance(names[key])
        if len(numbers) == _BOX - 1:
            x, y, w, h = numbers
            instance.box = (
                (x - w / 2) * width,
                (y - h / 2) * height,
                (x + w / 2) * width,
                (y + h / 2) * height,
            )
        else:
            scale = (width, height) * (len(numbers) // 2)
            instance.polygons = [
                [n * s for n, s in zip(numbers, scale, strict=True)]
            ]
        widths.add(len(numbers) + 1)
        image.instances.append(instance)
    return widths


def _looks_like(path: Path) -> bool:
    """Return whether the lines are whole numbers, each with parts of one."""
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()[:20]
    except (OSError, UnicodeDecodeError):
        return False
    good = [_fits(line.split()) for line in lines if line.strip()]
    return sum(good) * 2 >= len(good) > 0


def _fits(words: Sequence[str]) -> bool:
    try:
        row = finite(words)
    except ValueError:
        return False
    return (
        len(row) >= _BOX
        and row[0] == int(row[0]) >= 0
        and all(-0.5 <= value <= 1.5 for value in row[1:5])
    )


def _settings(listing: Listing) -> dict[str, Any]:
    """Return the content of data.yaml, with its folder as ``'folder'``."""
    for file in listing.of('.yaml', '.yml'):
        try:
            content = yaml.safe_load(read_text(file))
        except yaml.YAMLError:
            continue
        if isinstance(content, dict) and 'names' in content:
            return {**content, 'folder': file.parent}
    return {}


def _names(listing: Listing, settings: dict[str, Any]) -> list[str]:
    """Return the names of the classes, in order of their numbers.

    Raises:
        ValueError: If there are none.
    """
    names = settings.get('names')
    if isinstance(names, dict):
        keys = sorted(names, key=int)
        if [int(key) for key in keys] != list(range(len(keys))):
            raise ValueError(
                f'The names of data.yaml have the numbers {keys}; they must '
                'be 0, 1, 2 and so on. Fix it, or give the names with '
                '--classes.'
            )
        return [str(names[key]) for key in keys]
    if names:
        return [str(name) for name in names]
    for file in listing.files:
        if file.name in _NAME_FILES:
            lines = read_text(file).splitlines()
            return [line.strip() for line in lines if line.strip()]
    raise ValueError(
        f"YOLO labels in '{listing.root}' have numbers for classes, and no "
        'file says their names. Add data.yaml (names: [cat, dog]) or '
        'classes.txt (a name a line), or give them: --classes cat dog'
    )


def _split_folders(
    listing: Listing, settings: dict[str, Any]
) -> dict[Path, str]:
    """Return the split of each folder and image that data.yaml names."""
    found: dict[Path, str] = {}
    here = settings.get('folder', listing.root)
    bases = [here, here / str(settings.get('path') or '.'), listing.root]
    for split in ('test', 'val', 'train'):
        entries = settings.get(split) or ()
        for entry in [entries] if isinstance(entries, str) else entries:
            # Exports often say ../train/images and mean train/images.
            for text in (str(entry), re.sub(r'^(\.\./)+', '', str(entry))):
                paths = [Path(os.path.normpath(b / text)) for b in bases]
                path = next((p for p in paths if p.exists()), None)
                if path and path.is_relative_to(listing.root):
                    break
            else:
                continue
            if path.is_dir():
                found.setdefault(path, split)
            elif path.suffix == '.txt':
                for line in read_text(path).splitlines():
                    image = line.strip() and listing.image(line.strip(), path)
                    if image:
                        found.setdefault(image, split)
    return found
