"""Finds out the format of a folder by its content."""

from collections.abc import Sequence
from pathlib import Path

from .annotated_images import ImageSet
from .findings import Findings
from .listing import IMAGE_SUFFIXES, Listing
from .readers.coco_json import CocoJson
from .readers.dota_labels import DotaLabels
from .readers.index_masks import IndexMasks
from .readers.labelme_json import LabelMe
from .readers.object_masks import ObjectMasks
from .readers.reader import Reader
from .readers.voc_xml import VocXml
from .readers.yolo_labels import YoloLabels

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        CocoJson(),
        VocXml(),
        YoloLabels(),
        LabelMe(),
        DotaLabels(),
        IndexMasks(),
        ObjectMasks(),
    )
}
"""All formats, by the name that ``--format`` takes."""


def read_folder(
    root: Path,
    findings: Findings,
    format_name: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Read the annotations of a folder.

    Args:
        root: The folder.
        findings: Gets what is wrong.
        format_name: A key of ``READERS``; by default it is found out.
        classes: The classes, if they are given.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no annotations or those of several formats, or
            no class, or fewer than two images.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--data: there is no folder '{root}'.")
    listing = Listing(root)
    if not listing.images:
        raise ValueError(
            f"--data: '{root}' has no image ({', '.join(IMAGE_SUFFIXES)}); it "
            f'has {len(listing.files)} other files.'
        )
    names = [format_name] if format_name else list(READERS)
    found = {name: READERS[name].find(listing) for name in names}
    found = {name: files for name, files in found.items() if files}
    if not found:
        wanted = READERS[format_name].title if format_name else 'any format'
        raise ValueError(
            f"--data: '{root}' has {len(listing.images)} images, but no "
            f'annotations of {wanted} that is read here:\n'
            + '\n'.join(
                f'  {reader.name}: {reader.title}'
                for reader in READERS.values()
            )
        )
    if len(found) > 1:
        raise ValueError(
            f"--data: '{root}' has annotations in {len(found)} formats. Say "
            'which to use:\n'
            + '\n'.join(
                f'  --format {name}: {READERS[name].title}, {len(files)} '
                f"file(s), such as '{files[0].relative_to(listing.root)}'"
                for name, files in found.items()
            )
        )
    ((name, files),) = found.items()
    return READERS[name].read(listing, files, classes, findings)
