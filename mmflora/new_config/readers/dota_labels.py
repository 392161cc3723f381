"""DOTA's labelTxt: rotated boxes."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from mmflora.new_config.annotated_images import (
    AnnotatedImage,
    ImageSet,
    Instance,
)
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing, read_text

from .reader import (
    LEFT_OUT,
    Reader,
    drop_duplicates,
    finite,
    names_in,
    note_unannotated,
)

_HEADERS = ('imagesource', 'gsd', 'acquisition')
_NUMBERS = 8


class DotaLabels(Reader):
    """One text file per image: ``x1 y1 … x4 y4 class [difficult]`` a line.

    The header lines of DOTA-v1.0 (``imagesource:``, ``gsd:``) may be there.
    """

    name = 'dota'
    title = 'DOTA labelTxt'

    def find(self, listing: Listing) -> list[Path]:
        """Return the label files, empty ones beside them included."""
        texts = listing.of('.txt')
        sure = {path for path in texts if _looks_like(path)}
        return listing.beside(sure, texts)

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read the files; an empty one is an image without objects."""
        images = []
        for file in files:
            path = listing.image(file.stem, file)
            if path is None:
                findings.add('no image', file, LEFT_OUT)
                continue
            image = AnnotatedImage(
                path=path, source=file, split=listing.split_of(path)
            )
            for number, line in enumerate(read_text(file).splitlines(), 1):
                if line.strip() and not _is_header(line):
                    _add(image, line, number, findings)
            images.append(image)
        images = drop_duplicates(images, findings)
        note_unannotated(listing, images, findings)
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task='rotated',
            images=images,
            classes=names_in(images, classes),
            has_splits=any(image.split for image in images),
        )


def _add(
    image: AnnotatedImage, line: str, number: int, findings: Findings
) -> None:
    words = line.split()
    try:
        if len(words) <= _NUMBERS:
            raise ValueError(f'{len(words)} words, at least 9 are needed')
        quad = finite(words[:_NUMBERS])
    except ValueError as error:
        findings.add(
            'bad annotation', image.source, LEFT_OUT, f'line {number}: {error}'
        )
        return
    name, difficult = words[_NUMBERS:], False
    if len(name) > 1 and name[-1].isdigit():
        difficult = name.pop() not in ('0', '')
    image.instances.append(
        Instance(' '.join(name), quad=tuple(quad), difficult=difficult)
    )


def _is_header(line: str) -> bool:
    return line.strip().lower().startswith(_HEADERS)


def _looks_like(path: Path) -> bool:
    """Return whether the first lines are eight numbers and a name."""
    try:
        with open(path, encoding='utf-8-sig') as file:
            lines = [
                line.split()
                for line in islice(file, 20)
                if line.strip() and not _is_header(line)
            ]
        return bool(lines) and any(_fits(words) for words in lines)
    except (OSError, UnicodeDecodeError):
        return False


def _fits(words: Sequence[str]) -> bool:
    try:
        finite(words[:_NUMBERS])
    except ValueError:
        return False
    if len(words) <= _NUMBERS:
        return False
    try:
        float(words[_NUMBERS])
    except ValueError:
        return True
    return False
