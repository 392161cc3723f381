"""DOTA's text files, and rotated boxes around masks."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmflora.files.atomic import write_text
from mmflora.new_config.annotated_images import (
    SPLITS,
    AnnotatedImage,
    ImageSet,
    Instance,
    mask_of,
)

from .written import Written, shown_path


def write_dota(data: ImageSet, folder: Path, shown: Path) -> Written:
    """Write DOTA's text files: a folder per split, or per folder of images.

    MMRotate finds an image by the name of its text file, in one folder and
    with one suffix; images in several are several data sets.
    """
    places: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        groups: dict[tuple[Path, str], list[AnnotatedImage]] = defaultdict(
            list
        )
        for image in data.split(split):
            groups[image.path.parent, image.path.suffix].append(image)
        if groups:
            places[split] = []
        for number, ((parent, suffix), images) in enumerate(groups.items()):
            name = split if len(groups) == 1 else f'{split}-{number}'
            for image in images:
                lines = [_dota_line(i) for i in image.instances]
                write_text(
                    folder / name / f'{image.path.stem}.txt', ''.join(lines)
                )
            places[split].append(
                dict(
                    type='DOTADataset',
                    data_root='',
                    ann_file=(shown / name).as_posix(),
                    data_prefix=dict(img_path=shown_path(parent, data)),
                    img_suffix=suffix[1:],
                )
            )
    return Written(places, note='DOTA labelTxt')


def as_rotated(data: ImageSet) -> None:
    """Turn masks into the smallest rotated boxes around them."""
    for image, instance in data.instances():
        if instance.quad:
            continue
        points = instance.points
        if instance.run_lengths:
            mask = mask_of(instance, image.size)
            points = np.argwhere(mask)[:, ::-1].astype(float) + 0.5
        corners = points
        if len(points) != 4:
            box = cv2.minAreaRect(points.astype(np.float32))
            corners = cv2.boxPoints(box)
        instance.quad = tuple(corners.ravel().tolist())
        instance.polygons = instance.run_lengths = instance.box = None


def _dota_line(instance: Instance) -> str:
    numbers = ' '.join(f'{value:.2f}' for value in instance.quad or ())
    return f'{numbers} {instance.label} {int(instance.difficult)}\n'
