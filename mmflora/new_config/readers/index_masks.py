"""Label maps: one PNG per image, whose values are classes."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmflora.new_config.annotated_images import AnnotatedImage, ImageSet
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing, read_text

from .object_masks import owners_of_masks
from .reader import LEFT_OUT, Reader, drop_duplicates, note_unannotated

IGNORED = 255
_FOLDER = re.compile(
    r'(?i).*(annotation|annot|ann_?dir|label|mask|gt|seg|ground_?truth).*'
)
_TAIL = re.compile(
    r'(?i)[_.-]?(gtfine_|gtcoarse_)?'
    r'(labeltrainids|labelids|labels?|mask|gt|seg|ann|l)$'
)
_NAME_FILES = ('classes.txt', 'labels.txt', 'names.txt')
# Fewer than an image of one channel has, more than there are classes.
_MOST_VALUES = 200
_SAMPLES = 5


class IndexMasks(Reader):
    """A label map beside each image, of the same name in another folder.

    Names may end in what says that it is one: ``street_1_mask.png``. The
    names of the classes are given, or stand in ``classes.txt``.
    """

    name = 'index-masks'
    title = 'label maps (index PNG)'

    def find(self, listing: Listing) -> list[Path]:
        """Return the label maps: one channel, few values, with an image."""
        of_objects = owners_of_masks(listing)
        pairs = {
            label: image
            for label, image in _pairs(listing).items()
            if label not in of_objects and image not in of_objects
        }
        samples = list(pairs)[:: max(1, len(pairs) // _SAMPLES)][:_SAMPLES]
        maps = [path for path in samples if _is_label_map(path)]
        if len(maps) * 2 <= len(samples):
            return []
        return list(pairs)

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read all label maps, to know their values."""
        pairs = _pairs(listing)
        images = []
        with ThreadPoolExecutor() as pool:
            counted = list(pool.map(_count, files))
        for file, pixels in zip(files, counted, strict=True):
            if isinstance(pixels, str):
                findings.add('bad annotation', file, LEFT_OUT, pixels)
                continue
            path = pairs[file]
            images.append(
                AnnotatedImage(
                    path,
                    source=file,
                    split=listing.split_of(path),
                    label_map=file,
                    pixels=pixels,
                )
            )
        images = drop_duplicates(images, findings)
        images_only = [i for i in listing.images if i not in pairs]
        listing.images = images_only
        note_unannotated(listing, images, findings)
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task='semantic',
            images=images,
            classes=list(classes or _names(listing)),
            palette=_palette(files),
            has_splits=any(image.split for image in images),
        )


def number_classes(
    data: ImageSet, findings: Findings, ignored: Sequence[int] = ()
) -> None:
    """Give each value of the label maps the index of its class, or 255.

    Args:
        data: Gets ``values``, and ``classes`` where they have no names.
        findings: Gets values without a class.
        ignored: Values that are no class; 255 never is one, unless it is
            the only one beside 0.
    """
    found = sorted({value for image in data.images for value in image.pixels})
    if not data.classes and found == [0, IGNORED]:
        data.classes = ['background', 'foreground']
        data.values = {0: 0, IGNORED: 1}
        return
    left = [v for v in found if v not in (*ignored, IGNORED)]
    if not data.classes:
        data.classes = [f'class_{value}' for value in left]
        data.values = {value: index for index, value in enumerate(left)}
        findings.add(
            'unnamed classes',
            data.root,
            'named by their values; give names with --classes',
            ', '.join(map(str, left)),
        )
    else:
        numbers = [v for v in range(IGNORED) if v not in ignored]
        for value in left:
            index = numbers.index(value) if value in numbers else IGNORED
            data.values[value] = min(index, IGNORED)
            if index >= len(data.classes):
                data.values[value] = IGNORED
                there = [i for i in data.images if value in i.pixels]
                for image in there:
                    findings.add(
                        'unknown class',
                        image.source,
                        f'pixels of value {value} are ignored '
                        f'({len(data.classes)} classes have the values '
                        f'{numbers[0]} to {numbers[len(data.classes) - 1]}; '
                        'a value that is none of them: --ignore VALUE)',
                    )
    data.values |= {v: IGNORED for v in found if v not in data.values}


def label_map_of(path: Path) -> NDArray[np.integer]:
    """Return the values of a label map.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has several channels that differ.
    """
    with Image.open(path) as opened:
        values = np.asarray(opened)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.ndim == 3:
        first = values[..., 0]
        if (values[..., :3] != first[..., None]).any():
            raise ValueError(
                'it has colors; a label map has one channel with the numbers '
                'of the classes'
            )
        values = first
    return values


def _count(path: Path) -> dict[int, int] | str:
    try:
        values, counts = np.unique(label_map_of(path), return_counts=True)
    except (OSError, ValueError) as error:
        return str(error)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _is_label_map(path: Path) -> bool:
    pixels = _count(path)
    return isinstance(pixels, dict) and len(pixels) <= _MOST_VALUES


def _pairs(listing: Listing) -> dict[Path, Path]:
    """Return the image of every file that is named as a label map."""
    named = {}
    for path in listing.of('.png', '.bmp', '.tif', '.tiff'):
        folders = path.relative_to(listing.root).parts[:-1]
        tail = _TAIL.search(path.stem)
        if tail or any(_FOLDER.fullmatch(folder) for folder in folders):
            named[path] = path.stem[: tail.start()] if tail else path.stem
    labels = {*named}
    pairs: dict[Path, Path] = {}
    for path, stem in named.items():
        # As it is, or without what its end says: `l` may be of the name.
        for name in dict.fromkeys((path.stem, stem)):
            for end in ('', '_leftImg8bit'):
                image = listing.image(name + end, path, labels)
                if image:
                    pairs.setdefault(path, image)
    return pairs


def _names(listing: Listing) -> list[str]:
    """Return the names in classes.txt: ``sky``, ``0 sky`` or ``0: sky``."""
    for file in listing.files:
        if file.name in _NAME_FILES:
            lines = read_text(file).splitlines()
            return [
                re.sub(r'^\d+\s*[:,\s]\s*', '', line.strip())
                for line in lines
                if line.strip()
            ]
    return []


def _palette(files: Sequence[Path]) -> list[tuple[int, int, int]] | None:
    """Return the colors that the files themselves have for their values."""
    if not files:
        return None
    with Image.open(files[0]) as opened:
        colors = opened.getpalette('RGB') if opened.mode == 'P' else None
    if not colors:
        return None
    return [
        (colors[i], colors[i + 1], colors[i + 2])
        for i in range(0, len(colors) - 2, 3)
    ]
