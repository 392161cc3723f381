"""Write scenes as ADE20K semantic segmentation."""

from __future__ import annotations

from pathlib import Path

from .classes import CLASSES, PALETTE
from .images import write_image
from .scenes import Scene

SEG_CLASSES: tuple[str, ...] = (*CLASSES, 'background')
"""Classes of the label maps: label ``k``, counted from 1, is
``SEG_CLASSES[k - 1]``. The background is a class, the last one, so that a
false alarm on it costs IoU."""
SEG_PALETTE: tuple[tuple[int, int, int], ...] = (*PALETTE, (45, 48, 56))

_FOLDERS = dict(train='training', val='validation')


class Ade20kWriter:
    """``{images,annotations}/{training,validation}``.

    Label 0 is unlabelled, as in ADE20K, and means the pixels on an object's
    edge: load with ``reduce_zero_label=True``.

    Args:
        root: An empty folder.
        splits: Names of the splits, ``'train'`` and ``'val'``.
    """

    folder = 'ade/ADEChallengeData2016'

    def __init__(self, root: Path, splits: tuple[str, ...]) -> None:
        self._root = root
        self._written = dict.fromkeys(splits, 0)
        for kind in ('images', 'annotations'):
            for split in splits:
                (root / kind / _FOLDERS[split]).mkdir(parents=True)

    def add(self, split: str, scene: Scene) -> None:
        """Write the next picture of a split and its label map."""
        self._written[split] += 1
        name = f'ADE_{split}_{self._written[split]:08d}'
        images, annotations = (
            self._root / kind / _FOLDERS[split]
            for kind in ('images', 'annotations')
        )
        write_image(images / f'{name}.jpg', scene.image)
        write_image(annotations / f'{name}.png', scene.label_map)

    def close(self) -> None:
        """Nothing is left to write."""
