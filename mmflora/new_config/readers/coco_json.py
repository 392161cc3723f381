"""COCO's JSON: boxes, polygons and run lengths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmflora.new_config.annotated_images import (
    AnnotatedImage,
    ImageSet,
    Instance,
    packed,
)
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing, split_named

from .reader import LEFT_OUT, Reader, finite, load_json, note_unannotated

_KEYS = {'images', 'annotations', 'categories'}


class CocoJson(Reader):
    """``images``, ``annotations`` and ``categories`` in one file or more."""

    name = 'coco'
    title = 'COCO JSON'

    def find(self, listing: Listing) -> list[Path]:
        """Return the JSON files with COCO's three lists."""
        return [
            path
            for path in listing.of('.json')
            if isinstance(content := load_json(path), dict)
            and content.keys() >= _KEYS
            and all(isinstance(content[key], list) for key in _KEYS)
        ]

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read the files; each belongs to the split that its path names."""
        images: list[AnnotatedImage] = []
        names: list[str] = []
        for file in files:
            read = _OneFile(file, listing, findings)
            images += read.images
            names += [n for n in read.names.values() if n not in names]
        splits = {image.split for image in images}
        chosen: dict[Path, AnnotatedImage] = {}
        for image in images:
            first = chosen.setdefault(image.path, image)
            if first is not image:
                same = first.split == image.split
                findings.add(
                    'duplicate id' if same else 'two splits',
                    image.path,
                    f'the entry in {first.source.name} counts',
                    f'also in {image.source.name}',
                )
        note_unannotated(listing, images, findings)
        kept = list(chosen.values())
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task=_task(kept),
            images=kept,
            classes=list(classes or names),
            has_splits=bool(splits - {None}),
        )


class _OneFile:
    """The images of one JSON file."""

    def __init__(
        self, file: Path, listing: Listing, findings: Findings
    ) -> None:
        content: Any = load_json(file)
        self._file, self._findings = file, findings
        self.names: dict[Any, str] = {}
        for category in content['categories']:
            self._category(category)
        self._by_id: dict[Any, AnnotatedImage | None] = {}
        own_split = split_named(file.stem) or listing.split_of(file)
        for entry in content['images']:
            self._image(entry, listing, own_split)
        seen: set[Any] = set()
        for entry in content['annotations']:
            self._annotation(entry, seen)
        self.images = [image for image in self._by_id.values() if image]

    def _category(self, entry: Any) -> None:
        try:
            key, name = entry['id'], str(entry['name'])
        except (KeyError, TypeError):
            self._bad(f'category {str(entry):.60}')
            return
        if key in self.names and self.names[key] != name:
            self._twice(f'category {key}: {self.names[key]} and {name}')
        self.names.setdefault(key, name)

    def _image(
        self, entry: Any, listing: Listing, own_split: str | None
    ) -> None:
        try:
            key, name = entry['id'], entry['file_name']
            declared = None
            if entry.get('width') and entry.get('height'):
                declared = int(entry['width']), int(entry['height'])
        except (AttributeError, KeyError, TypeError, ValueError):
            self._bad(f'image {str(entry):.60}')
            return
        if key in self._by_id:
            self._twice(f'image id {key} ({name})')
            return
        path = listing.image(str(name), self._file)
        if path is None:
            self._findings.add(
                'no image', self._file, LEFT_OUT, f'image {name}'
            )
            self._by_id[key] = None
            return
        self._by_id[key] = AnnotatedImage(
            path=path,
            source=self._file,
            split=own_split or listing.split_of(path),
            declared_size=declared,
        )

    def _annotation(self, entry: Any, seen: set[Any]) -> None:
        try:
            key, owner = entry.get('id'), entry['image_id']
            if owner not in self._by_id:
                raise ValueError(f'image {owner} is not in the list')
            image = self._by_id[owner]
            name = self.names.get(entry['category_id'])
            if name is None:
                self._findings.add(
                    'unknown class',
                    self._file,
                    LEFT_OUT,
                    f'annotation {key}: category {entry["category_id"]}',
                )
                return
            instance = _instance(entry, name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._bad(f'annotation {str(entry):.60}: {error}')
            return
        if key is not None and key in seen:
            self._findings.add(
                'duplicate id',
                self._file,
                'kept under a new id',
                f'annotation id {key}',
            )
        seen.add(key)
        if image is not None:
            image.instances.append(instance)

    def _bad(self, detail: str) -> None:
        self._findings.add('bad annotation', self._file, LEFT_OUT, detail)

    def _twice(self, detail: str) -> None:
        self._findings.add(
            'duplicate id', self._file, 'the first counts', detail
        )


def _instance(entry: Mapping[str, Any], name: str) -> Instance:
    """Return the object of one annotation.

    Raises:
        KeyError: If it has neither box nor mask.
        TypeError: If a value is none.
        ValueError: If a value is no number, or run lengths do not fit.
    """
    instance = Instance(name, crowd=bool(entry.get('iscrowd', 0)))
    segmentation = entry.get('segmentation')
    if isinstance(segmentation, dict):
        size = [int(value) for value in segmentation['size']]
        instance.run_lengths = dict(size=size, counts=segmentation['counts'])
        if isinstance(instance.run_lengths['counts'], list):
            total = sum(instance.run_lengths['counts'])
            if total != size[0] * size[1]:
                raise ValueError(f'run lengths of {total} pixels for {size}')
            instance.run_lengths = packed(instance.run_lengths)
    elif segmentation:
        rings = segmentation
        if not isinstance(rings[0], list):
            rings = [rings]
        rings = [finite(ring) for ring in rings]
        instance.polygons = [
            ring for ring in rings if len(ring) > 5 and not len(ring) % 2
        ] or None
    if entry.get('bbox') or not segmentation:
        x, y, w, h = finite(entry['bbox'])
        instance.box = (x, y, x + w, y + h)
    if instance.box is None and not (
        instance.polygons or instance.run_lengths
    ):
        raise ValueError('a polygon needs three points')
    return instance


def _task(images: Sequence[AnnotatedImage]) -> str:
    found = [instance for image in images for instance in image.instances]
    masks = sum(bool(i.polygons or i.run_lengths) for i in found)
    return 'masks' if masks and masks * 2 >= len(found) else 'boxes'
