"""Write scenes as COCO instance annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from .classes import CLASSES
from .images import write_image
from .scenes import Scene, SceneObject


def to_annotation(thing: SceneObject, side: int) -> dict[str, Any]:
    """Describe an object as COCO does.

    Area and box are those of the mask that pycocotools rasterizes from the
    polygon, so polygon, area and box describe the same object.
    """
    polygon = thing.polygon.ravel().tolist()
    mask = coco_mask.frPyObjects([polygon], side, side)[0]
    return dict(
        category_id=thing.label + 1,
        segmentation=[polygon],
        area=int(coco_mask.area(mask)),
        bbox=coco_mask.toBbox(mask).tolist(),
        iscrowd=0,
    )


class CocoWriter:
    """``annotations/instances_{split}2017.json`` and ``{split}2017/``.

    Image and annotation ids count from 1 in each split.

    Args:
        root: An empty folder.
        splits: Names of the splits, ``'train'`` and ``'val'``.
    """

    folder = 'coco'

    def __init__(self, root: Path, splits: tuple[str, ...]) -> None:
        self._root = root
        self._images: dict[str, list[dict[str, Any]]] = {
            split: [] for split in splits
        }
        self._annotations: dict[str, list[dict[str, Any]]] = {
            split: [] for split in splits
        }
        (root / 'annotations').mkdir(parents=True)
        for split in splits:
            (root / f'{split}2017').mkdir()

    def add(self, split: str, scene: Scene) -> None:
        """Write the next picture of a split and keep its annotations."""
        images, annotations = self._images[split], self._annotations[split]
        height, width = scene.label_map.shape
        image_id = len(images) + 1
        name = f'{image_id:012d}.jpg'
        image = dict(
            id=image_id, file_name=name, height=height, width=width, license=1
        )
        write_image(self._root / f'{split}2017' / name, scene.image)
        images.append(image)
        for thing in scene.objects:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    **to_annotation(thing, width),
                )
            )

    def close(self) -> None:
        """Write the annotation files."""
        for split, images in self._images.items():
            content = dict(
                info=dict(
                    description=f'mmflora shapes, {split}', version='1.0'
                ),
                licenses=[dict(id=1, name='Generated, no rights reserved')],
                images=images,
                annotations=self._annotations[split],
                categories=[
                    dict(id=k, name=name, supercategory='shape')
                    for k, name in enumerate(CLASSES, start=1)
                ],
            )
            path = self._root / 'annotations' / f'instances_{split}2017.json'
            path.write_text(json.dumps(content) + '\n', encoding='utf-8')
