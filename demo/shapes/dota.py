"""Write scenes as DOTA, in the layout of its split images."""

from __future__ import annotations

from pathlib import Path

from .classes import CLASSES
from .images import write_image
from .scenes import Scene, SceneObject


def to_line(thing: SceneObject) -> str:
    """Describe an object as DOTA does: corners, class, difficulty."""
    corners = ' '.join(f'{value:.2f}' for value in thing.corners.ravel())
    return f'{corners} {CLASSES[thing.label]} 0'


class DotaWriter:
    """``{trainval,val}/{images,annfiles}``.

    Unlike in DOTA, ``trainval`` holds the training pictures only: no
    picture is in both folders.

    Args:
        root: An empty folder.
        splits: Names of the splits, ``'train'`` and ``'val'``.
    """

    folder = 'split_ss_dota'

    def __init__(self, root: Path, splits: tuple[str, ...]) -> None:
        self._folders = {
            split: root / ('trainval' if split == 'train' else split)
            for split in splits
        }
        self._written = dict.fromkeys(splits, 0)
        for folder in self._folders.values():
            (folder / 'images').mkdir(parents=True)
            (folder / 'annfiles').mkdir()

    def add(self, split: str, scene: Scene) -> None:
        """Write the next picture of a split and its annotations."""
        self._written[split] += 1
        side = scene.label_map.shape[0]
        name = f'P{self._written[split]:04d}__{side}__0___0'
        folder = self._folders[split]
        write_image(folder / 'images' / f'{name}.png', scene.image)
        lines = [f'{to_line(thing)}\n' for thing in scene.objects]
        (folder / 'annfiles' / f'{name}.txt').write_text(
            ''.join(lines), encoding='utf-8'
        )

    def close(self) -> None:
        """Nothing is left to write."""
