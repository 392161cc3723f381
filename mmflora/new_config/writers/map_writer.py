"""Label maps whose values are classes, and lists of images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmflora.files.atomic import staged_file, write_text
from mmflora.new_config.annotated_images import (
    SPLITS,
    AnnotatedImage,
    ImageSet,
    Instance,
    mask_of,
)
from mmflora.new_config.readers.index_masks import IGNORED, label_map_of
from mmflora.new_config.turned_images import upright

from .written import Written, shown_path

# The class of what no mask covers.
BACKGROUND = 'background'


def write_maps(data: ImageSet, folder: Path, shown: Path) -> Written:
    """Write label maps and lists of images, as far as needed.

    Maps whose values are classes already, and whose path is their image's,
    stay where they are.
    """
    suffixes = {image.path.suffix for image in data.images}
    suffix = suffixes.pop() if len(suffixes) == 1 else ''
    root = Path(os.path.commonpath([i.path.parent for i in data.images]))
    maps = _maps_as_they_are(data, root, suffix)
    map_suffix, prefix = '.png', (shown / 'maps').as_posix()
    if maps:
        map_suffix, prefix = maps[1], shown_path(maps[0], data)
    places = {}
    for split in SPLITS:
        lines = []
        if not data.split(split):
            continue
        for image in data.split(split):
            name = image.path.relative_to(root).as_posix()
            name = name.removesuffix(suffix)
            lines.append(f'{name}\n')
            if not maps:
                _write_map(image, data, folder / 'maps' / f'{name}.png')
        write_text(folder / f'{split}.txt', ''.join(lines))
        places[split] = [
            dict(
                type='BaseSegDataset',
                data_root='',
                ann_file=(shown / f'{split}.txt').as_posix(),
                data_prefix=dict(
                    img_path=shown_path(root, data), seg_map_path=prefix
                ),
                img_suffix=suffix,
                seg_map_suffix=map_suffix,
                reduce_zero_label=False,
            )
        ]
    note = 'label maps as they are' if maps else 'label maps with 255 as void'
    return Written(places, note=note)


def as_label_maps(data: ImageSet) -> None:
    """Make label maps of masks: the background is class 0."""
    if BACKGROUND not in data.classes:
        data.classes.insert(0, BACKGROUND)
    data.values = {i: i for i in range(len(data.classes))}


def _maps_as_they_are(
    data: ImageSet, root: Path, suffix: str
) -> tuple[Path, str] | None:
    """Return folder and suffix of the label maps, if they need no change."""
    if any(index not in (v, IGNORED) for v, index in data.values.items()):
        return None
    if any(i == IGNORED and v != i for v, i in data.values.items()):
        return None
    found = set()
    for image in data.images:
        if image.label_map is None or image.orientation > 1 or not suffix:
            return None
        name = image.path.relative_to(root).as_posix().removesuffix(suffix)
        label = image.label_map.as_posix()
        start = label.rfind(f'/{name}')
        if start < 0:
            return None
        found.add((label[:start], label[start + 1 + len(name) :]))
    if len(found) != 1:
        return None
    folder, tail = found.pop()
    return Path(folder), tail


def _write_map(image: AnnotatedImage, data: ImageSet, file: Path) -> None:
    values = index_map_of(image, data)
    with staged_file(file) as partial:
        Image.fromarray(values).save(partial)


def index_map_of(image: AnnotatedImage, data: ImageSet) -> Any:
    """Return the classes of the pixels of an upright image; 255 is void."""
    if image.label_map is None:
        width, height = image.size
        drawn = np.zeros((height, width), np.uint8)
        for instance in sorted(image.instances, key=_size, reverse=True):
            inside = mask_of(instance, image.size) != 0
            drawn[inside] = data.classes.index(instance.label)
        return drawn
    values = label_map_of(image.label_map)
    table = np.full(max(int(values.max()), max(data.values)) + 1, IGNORED)
    for value, index in data.values.items():
        table[value] = index
    result = table[values].astype(np.uint8)
    if result.shape != image.size[::-1]:
        result = upright(result, image.orientation)
    return result


def _size(instance: Instance) -> float:
    x1, y1, x2, y2 = instance.bounds
    return (x2 - x1) * (y2 - y1)
