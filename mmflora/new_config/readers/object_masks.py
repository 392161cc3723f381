"""One mask file per object."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmflora.new_config.annotated_images import (
    AnnotatedImage,
    ImageSet,
    Instance,
    run_lengths_of,
)
from mmflora.new_config.findings import Findings
from mmflora.new_config.listing import Listing

from .reader import LEFT_OUT, Reader, names_in

_MASKS = re.compile(r'.*(masks?|annotations?|labels?)', re.IGNORECASE)
_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff')
# What a class is called that no folder names.
DEFAULT_CLASS = 'object'


class ObjectMasks(Reader):
    """A folder of masks per image, not 0 inside the object.

    ``ID/images/ID.png`` with ``ID/masks/*.png``, as in Data Science Bowl
    2018, or ``images/NAME.jpg`` with ``masks/NAME/*.png``. With folders
    between, ``masks/NAME/CLASS/*.png``, these name the classes.
    """

    name = 'object-masks'
    title = 'one mask per object'

    def find(self, listing: Listing) -> list[Path]:
        """Return the masks."""
        return list(owners_of_masks(listing))

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read the masks."""
        owners = owners_of_masks(listing)
        images: dict[Path, AnnotatedImage] = {}
        for path in listing.images:
            if path not in owners:
                images[path] = AnnotatedImage(
                    path, source=path, split=listing.split_of(path)
                )
        default = classes[0] if classes else DEFAULT_CLASS
        for file, (owner, label) in owners.items():
            image = images[owner]
            image.source = file.parent
            try:
                with Image.open(file) as opened:
                    mask = np.asarray(opened)
                    if opened.mode == 'RGBA':
                        mask = mask[..., :3]
            except (OSError, ValueError) as error:
                findings.add('bad annotation', file, LEFT_OUT, str(error))
                continue
            inside = np.asarray(np.atleast_3d(mask).any(-1))
            if not inside.any():
                findings.add('no area', file, LEFT_OUT)
                continue
            image.instances.append(
                Instance(label or default, run_lengths=run_lengths_of(inside))
            )
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task='masks',
            images=list(images.values()),
            classes=names_in(list(images.values()), classes),
            has_splits=any(image.split for image in images.values()),
        )


def owners_of_masks(
    listing: Listing,
) -> dict[Path, tuple[Path, str | None]]:
    """Return the image of each mask, with the class that a folder names."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    stems: dict[str, list[Path]] = defaultdict(list)
    for path in listing.images:
        folders[path.parent].append(path)
        stems[path.stem].append(path)
    owners: dict[Path, tuple[Path, str | None]] = {}
    for folder, files in folders.items():
        if folder == listing.root:
            continue
        owner, label = None, None
        beside = folders.get(folder.parent / 'images', ())
        if _MASKS.fullmatch(folder.name) and len(beside) == 1:
            owner = beside[0]
        for place, name in ((folder, None), (folder.parent, folder.name)):
            if owner is None and _MASKS.fullmatch(place.parent.name):
                same = [
                    path
                    for path in stems.get(place.name, ())
                    if place.parent not in path.parents
                ]
                if same:
                    split = listing.split_of(folder / 'mask')
                    same.sort(key=lambda p: listing.split_of(p) != split)
                    owner, label = same[0], name
        if owner is not None:
            for file in files:
                if file.suffix.lower() in _SUFFIXES and file != owner:
                    owners[file] = owner, label
    return owners
