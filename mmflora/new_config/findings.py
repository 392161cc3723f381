"""What is wrong or odd in a folder, collected for one report."""

from dataclasses import dataclass, field
from pathlib import Path

KINDS = {
    'no image': 'annotated images that are not in the folder',
    'unreadable': 'images that cannot be read',
    'no annotation': 'images without an annotation file',
    'bad annotation': 'annotations that cannot be read',
    'duplicate id': 'ids that are given twice',
    'two splits': 'images that are listed in two splits',
    'unknown class': 'objects or pixels of a class that is not in the list',
    'similar names': 'classes whose names differ in case or blanks only',
    'unnamed classes': 'classes without a name',
    'size': 'images of another size than the annotations say',
    'no area': 'objects without area (under a pixel)',
    'outside': 'objects outside their image',
    'clipped': 'objects that reach over the edge of their image',
    'corners': 'boxes whose corners are swapped',
    'twice': 'objects that are there twice',
    'map size': 'label maps of another size than their image',
    'empty': 'images without an object',
    'repeat': 'images that are in two splits, byte for byte or pixel for '
    'pixel',
    'near repeat': 'images that nearly repeat one of another split',
    'same split': 'images that are there twice in one split',
    'exif': 'images that EXIF turns',
    'one channel': 'gray images',
    'four channels': 'images with an alpha channel',
    'other mode': 'images in another color mode or with 16 bits',
    'class without examples': 'classes that a split does not have',
    'new name': 'names of classes that had to change',
}
"""Every kind of finding, in the order of the report."""


@dataclass
class Finding:
    """All findings of one kind, with the files and what was done."""

    done: str
    files: list[str] = field(default_factory=list)


class Findings:
    """Collects findings; the same kind with the same remedy is one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._all: dict[str, dict[str, Finding]] = {}

    def add(
        self, kind: str, where: Path | str, done: str, detail: str = ''
    ) -> None:
        """Note one.

        Args:
            kind: A key of ``KINDS``.
            where: The file, or what else it is about.
            done: What was done about it.
            detail: The place in the file, the value.
        """
        if kind not in KINDS:
            raise KeyError(kind)
        if isinstance(where, Path):
            try:
                where = where.relative_to(self.root).as_posix()
            except ValueError:
                where = str(where)
        of_kind = self._all.setdefault(kind, {})
        of_kind.setdefault(done, Finding(done)).files.append(
            f'{where}: {detail}' if detail else where
        )

    def count(self, kind: str) -> int:
        """Return how many of one kind there are."""
        found = self._all.get(kind, {}).values()
        return sum(len(finding.files) for finding in found)

    def text(self, most_files: int | None = None) -> str:
        """Return the report: what, how many, which first, what was done.

        Args:
            most_files: How many files of a kind to list; all by default.
        """
        lines = []
        for kind, what in KINDS.items():
            for finding in self._all.get(kind, {}).values():
                shown = finding.files[:most_files]
                rest = len(finding.files) - len(shown)
                lines.append(f'{len(finding.files):>7}  {what}')
                lines.append(f'         -> {finding.done}')
                lines += [f'           {name}' for name in shown]
                if rest:
                    lines.append(f'           … and {rest} more')
        return '\n'.join(lines) or '      nothing'
