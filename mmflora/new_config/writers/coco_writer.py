"""One COCO JSON per split."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmflora.files.atomic import write_text
from mmflora.new_config.annotated_images import (
    SPLITS,
    AnnotatedImage,
    ImageSet,
    Instance,
    mask_of,
    packed,
)
from mmflora.new_config.readers.reader import load_json

from .written import Written, shown_path


def write_coco(
    data: ImageSet, task: str, folder: Path, shown: Path
) -> Written:
    """Write one COCO JSON per split, unless the folder has that very one.

    Args:
        data: The images.
        task: ``boxes``, ``masks`` or ``rotated`` (as polygons).
        folder: Where to write.
        shown: The same folder, as the config names it.
    """
    root = data.named.as_posix()
    written = Written({}, note='COCO JSON')
    reused = []
    for split in SPLITS:
        images = data.split(split)
        if not images:
            continue
        content = _coco(images, data, task)
        original = _original(images, content, task)
        prefix = root
        if original:
            path, below = original
            file = shown_path(path, data)
            prefix = shown_path(below, data)
            reused.append(path.name)
        else:
            file = (shown / f'{split}.json').as_posix()
            write_text(folder / f'{split}.json', json.dumps(content))
        written.files[split] = file
        written.places[split] = [
            dict(
                type='CocoDataset',
                data_root='',
                ann_file=file,
                data_prefix=dict(img=prefix),
            )
        ]
    if reused:
        written.note = 'as they are: ' + ', '.join(reused)
        if len(reused) < len(written.files):
            written.note += '; the others as COCO JSON'
    return written


def _coco(
    images: Iterable[AnnotatedImage], data: ImageSet, task: str
) -> dict[str, Any]:
    numbers = {name: i for i, name in enumerate(data.classes, 1)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for key, image in enumerate(images, 1):
        entries.append(
            dict(
                id=key,
                file_name=image.path.relative_to(data.root).as_posix(),
                width=image.size[0],
                height=image.size[1],
            )
        )
        for instance in image.instances:
            annotation = _coco_annotation(instance, image, task)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=key,
                    category_id=numbers[instance.label],
                    **annotation,
                )
            )
    return dict(
        images=entries,
        annotations=annotations,
        categories=[dict(id=i, name=n) for n, i in numbers.items()],
    )


def _coco_annotation(
    instance: Instance, image: AnnotatedImage, task: str
) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box or instance.bounds
    area = (x2 - x1) * (y2 - y1)
    entry: dict[str, Any] = dict(
        bbox=[round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
        # An object that is hard to see is neither right nor wrong to find.
        iscrowd=int(instance.crowd or instance.difficult),
    )
    if task == 'masks':
        if instance.run_lengths:
            coded = packed(instance.run_lengths)
            counts = coded['counts']
            if isinstance(counts, bytes):
                counts = counts.decode()
            entry['segmentation'] = dict(
                size=[int(v) for v in coded['size']], counts=counts
            )
        else:
            rings = instance.polygons or [list(instance.quad or ())]
            entry['segmentation'] = [
                [round(value, 3) for value in ring] for ring in rings
            ]
        area = int(mask_of(instance, image.size).sum())
    elif task == 'rotated':
        entry['segmentation'] = [list(instance.quad or ())]
    entry['area'] = round(float(area), 3)
    return entry


def _original(
    images: list[AnnotatedImage], content: dict[str, Any], task: str
) -> tuple[Path, Path] | None:
    """Return the folder's own COCO file and its images' folder, if it fits.

    It fits if it has the same images, objects and classes as what would be
    written, and nothing else.
    """
    sources = {image.source for image in images}
    if len(sources) != 1 or (file := sources.pop()).suffix != '.json':
        return None
    own = load_json(file)
    if not isinstance(own, dict) or 'categories' not in own:
        return None
    names = {image.path.as_posix() for image in images}
    first = own['images'][0]['file_name']
    prefix = next((n for n in names if n.endswith(f'/{first}')), None)
    if prefix is None:
        return None
    below = Path(prefix.removesuffix(f'/{first}'))
    if {(below / i['file_name']).as_posix() for i in own['images']} != names:
        return None
    if len({i['id'] for i in own['images']}) != len(names):
        return None
    ids = [annotation.get('id') for annotation in own['annotations']]
    if None in ids or len({*ids}) != len(ids):
        return None
    with_masks = task != 'boxes'
    if _counted(own, with_masks) != _counted(content, with_masks):
        return None
    return file, below


def _counted(content: dict[str, Any], with_masks: bool) -> Counter[Any]:
    """Count boxes by image, class and place, and classes in order."""
    images = {
        i['id']: (i['file_name'].rpartition('/')[2], i['width'], i['height'])
        for i in content['images']
    }
    names = {c['id']: c['name'] for c in content['categories']}
    counted: Counter[Any] = Counter(
        (
            images.get(a['image_id']),
            names.get(a['category_id']),
            *(round(float(v)) for v in a.get('bbox', ())),
            bool(a.get('area')),
            bool(a.get('iscrowd', 0)),
            with_masks and 'segmentation' in a,
        )
        for a in content['annotations']
    )
    counted[tuple(names.values())] += 1
    return counted
