"""The files of a data folder, listed once."""

import os
import re
from collections import defaultdict
from collections.abc import Set
from pathlib import Path

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
"""What the toolkits read."""

_SPLIT_WORDS = {
    'train': ('train', 'training', 'trainset'),
    'val': ('val', 'valid', 'validation', 'dev', 'valset'),
    'test': ('test', 'testing', 'testset'),
}
_SPLIT_OF = {
    word: key for key, words in _SPLIT_WORDS.items() for word in words
}


class Listing:
    """All files below a folder, hidden ones left out, in order of name."""

    def __init__(self, root: Path) -> None:
        self.named = root
        self.root = root = Path(os.path.abspath(root))
        self.files: list[Path] = []
        for folder, names, files in os.walk(root, followlinks=True):
            names[:] = sorted(
                n for n in names if n[0] != '.' and n != '__MACOSX'
            )
            self.files += [
                Path(folder, name) for name in sorted(files) if name[0] != '.'
            ]
        self.images = self.of(*IMAGE_SUFFIXES)
        self._images = {*self.images}
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.images:
            self._by_name[path.name].append(path)
            self._by_stem[path.stem].append(path)

    def of(self, *suffixes: str) -> list[Path]:
        """Return the files with one of the suffixes."""
        return [f for f in self.files if f.suffix.lower() in suffixes]

    def beside(self, sure: Set[Path], texts: list[Path]) -> list[Path]:
        """Return label files, with those beside them that hold nothing sure.

        Args:
            sure: Those known by their content.
            texts: All that may be ones: empty or damaged ones are told by
                their folder and by the image of their name.
        """
        folders = {path.parent for path in sure}
        return [
            path
            for path in texts
            if path in sure
            or (path.parent in folders and path.stem in self._by_stem)
        ]

    def image(
        self, name: str, near: Path, leave_out: Set[Path] = frozenset()
    ) -> Path | None:
        """Find an image by its name or path, or without suffix by its stem.

        Args:
            name: As an annotation file names it; its folders count where
                they exist, and are else ignored.
            near: The annotation file: of several images of one name, the one
                that shares most folders with it is taken, or one of its split.
            leave_out: Files that are not meant, such as label maps.
        """
        name = name.replace('\\', '/')
        for folder in (near.parent, self.root):
            path = Path(os.path.normpath(folder / name))
            if path in self._images and path not in leave_out:
                return path
        last = name.rpartition('/')[2]
        found = self._by_name.get(last) or self._by_stem.get(last, [])
        if not found and Path(last).suffix.lower() in IMAGE_SUFFIXES:
            found = self._by_stem.get(Path(last).stem, [])
        wanted = {*near.parts, *name.split('/')}
        split = split_named(near.stem) or self.split_of(near)
        return max(
            (path for path in found if path not in leave_out),
            key=lambda path: (
                len(wanted & {*path.parts}),
                self.split_of(path) == split,
            ),
            default=None,
        )

    def split_of(self, path: Path) -> str | None:
        """Return the split that the folders of a file name: ``…/valid/…``."""
        for folder in reversed(path.relative_to(self.root).parts[:-1]):
            named = split_named(folder)
            if named:
                return named
        return None


def split_named(name: str) -> str | None:
    """Return the split that a name such as ``instances_val2017`` says."""
    words = re.findall('[a-z]+', name.lower())
    named = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return named.pop() if len(named) == 1 else None


def read_text(path: Path) -> str:
    """Return the text of a file, whichever encoding an editor gave it."""
    return path.read_bytes().decode('utf-8-sig', errors='replace')
