"""Pascal VOC's XML: boxes."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

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

_LISTS = ('test', 'val', 'train')


class VocXml(Reader):
    """One XML file per image, lists of splits in ``ImageSets/Main``."""

    name = 'voc'
    title = 'Pascal VOC XML'

    def find(self, listing: Listing) -> list[Path]:
        """Return the XML files; what other XML there is fails in reading."""
        return [
            path
            for path in listing.of('.xml')
            if b'<annotation' in path.read_bytes()[:4096]
        ]

    def read(
        self,
        listing: Listing,
        files: Sequence[Path],
        classes: Sequence[str] | None,
        findings: Findings,
    ) -> ImageSet:
        """Read the files.

        Coordinates of VOC count from 1; where any is 0, they count from 0.
        """
        images = []
        for file in files:
            try:
                image = _read(file, listing, findings)
            except (ElementTree.ParseError, ValueError) as error:
                findings.add('bad annotation', file, LEFT_OUT, str(error))
                continue
            if image:
                images.append(image)
        images = drop_duplicates(images, findings)
        boxes = [i for image in images for i in image.instances]
        first = 1 if all(min(i.box or (1,)) >= 1 for i in boxes) else 0
        for instance in boxes:
            x1, y1, x2, y2 = instance.bounds
            instance.box = (x1 - first, y1 - first, x2 - first, y2 - first)
        lists = _splits(listing, findings)
        for image in images:
            image.split = lists.get(image.source.stem) if lists else None
            if not lists:
                image.split = listing.split_of(image.path)
        if lists:
            for image in images:
                if image.split is None:
                    findings.add(
                        'no annotation',
                        image.path,
                        LEFT_OUT,
                        'no list of ImageSets/Main names it',
                    )
            images = [image for image in images if image.split]
        else:
            note_unannotated(listing, images, findings)
        return ImageSet(
            root=listing.root,
            named=listing.named,
            format=self.name,
            task='boxes',
            images=images,
            classes=names_in(images, classes),
            has_splits=any(image.split for image in images),
        )


class _WithoutEntities(ElementTree.TreeBuilder):
    """Refuses a document type, which could define entities without end."""

    def doctype(self, name: str, *_ids: str) -> None:
        raise ValueError('it declares a document type, which is not read')


def _read(
    file: Path, listing: Listing, findings: Findings
) -> AnnotatedImage | None:
    """Read one file; None if its image is missing.

    Raises:
        ParseError: If it is no XML.
        ValueError: If a box has no four numbers, or the root is another.
    """
    parser = ElementTree.XMLParser(target=_WithoutEntities())
    root = ElementTree.fromstring(file.read_bytes(), parser)
    if root.tag != 'annotation':
        raise ValueError(f'its root is <{root.tag}>')
    # Files are renamed more often than their content: its own name first.
    named = root.findtext('filename') or ''
    path = listing.image(file.stem, file) or listing.image(named, file)
    if path is None:
        findings.add('no image', file, LEFT_OUT, named)
        return None
    image = AnnotatedImage(path=path, source=file)
    try:
        width = int(float(root.findtext('size/width') or 0))
        height = int(float(root.findtext('size/height') or 0))
    except ValueError:
        width = height = 0
    if width > 0 and height > 0:
        image.declared_size = width, height
    for number, item in enumerate(root.iterfind('object')):
        try:
            x1, y1, x2, y2 = finite(
                item.findtext(f'bndbox/{key}') or 'nan'
                for key in ('xmin', 'ymin', 'xmax', 'ymax')
            )
        except ValueError as error:
            findings.add(
                'bad annotation', file, LEFT_OUT, f'object {number}: {error}'
            )
            continue
        label = (item.findtext('name') or '').strip()
        difficult = item.findtext('difficult', '0').strip() == '1'
        image.instances.append(
            Instance(label, box=(x1, y1, x2, y2), difficult=difficult)
        )
    return image


def _splits(listing: Listing, findings: Findings) -> dict[str, str]:
    """Return the split of each name in the lists of ``ImageSets/Main``."""
    splits: dict[str, str] = {}
    lists = {
        file.stem: file
        for file in listing.of('.txt')
        if 'ImageSets' in file.parts
    }
    if 'train' not in lists and 'trainval' in lists:
        lists['train'] = lists['trainval']
    for name in _LISTS:
        if name not in lists:
            continue
        for line in read_text(lists[name]).splitlines():
            if not line.split():
                continue
            stem = line.split()[0]
            if stem in splits and splits[stem] != name:
                if lists[name].stem != 'train':
                    continue
                findings.add(
                    'two splits',
                    stem,
                    f'kept in {splits[stem]} only',
                    f'also in {name}',
                )
            splits.setdefault(stem, name)
    return splits
