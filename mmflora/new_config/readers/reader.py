"""What a reader of a format is, and what several of them need."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmflora.new_config.annotated_images import AnnotatedImage, ImageSet
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing, read_text

LEFT_OUT = 'left out'


class Reader(ABC):
    """Reads one format.

    A reader finds faults of its files and leaves out what cannot be read;
    what is wrong with the images and objects themselves is checked later,
    for all formats alike.
    """

    name: str
    title: str

    @abstractmethod
    def find(self, listing: Listing) -> list[Path]:
        """Return the annotation files of this format, by their content."""

    @abstractmethod
    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read all of them.

        Args:
            listing: The folder.
            files: What :meth:`find` returned.
            classes: The classes, if the user names them.
            findings: Gets what is wrong.

        Raises:
            ValueError: If the classes have no names.
        """


def load_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it is none."""
    stat = path.stat()
    return _load_json(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _load_json(path: Path, *_stamp: int) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError):
        return None


def finite(values: Iterable[Any]) -> list[float]:
    """Return values as numbers.

    Raises:
        ValueError: If one is none, is infinite or is no number.
    """
    numbers = [float(value) for value in values]
    for number in numbers:
        if not abs(number) < 1e9:
            raise ValueError(f'{number} is no coordinate')
    return numbers


def names_in(
    images: Sequence[AnnotatedImage], classes: Sequence[str] | None
) -> list[str]:
    """Return the classes of a format that has no list: all that occur."""
    if classes:
        return list(classes)
    counted = Counter(
        instance.label for image in images for instance in image.instances
    )
    return sorted(counted)


def note_unannotated(
    listing: Listing,
    images: Sequence[AnnotatedImage],
    findings: Findings,
    kind: str = 'annotation file',
) -> None:
    """Note the images of the folder that no annotation is about."""
    known = {image.path for image in images}
    for path in listing.images:
        if path not in known:
            findings.add('no annotation', path, LEFT_OUT)


def drop_duplicates(
    images: Sequence[AnnotatedImage], findings: Findings
) -> list[AnnotatedImage]:
    """Keep one entry of an image that several annotation files describe."""
    kept: dict[Path, AnnotatedImage] = {}
    for image in images:
        first = kept.setdefault(image.path, image)
        if first is not image:
            findings.add(
                'duplicate id',
                image.path,
                'the first annotation counts',
                f'in {first.source.name} and {image.source.name}',
            )
    return list(kept.values())
