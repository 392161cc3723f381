"""What the files of the images are: readable, sizes, colors, repeats."""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .annotated_images import SPLITS, AnnotatedImage, ImageSet
from .findings import Findings
from .readers.reader import LEFT_OUT

_ORIENTATION = 0x0112
# Of a thumbnail, and from which correlation on two of them are one picture:
# different photographs of cells stay below 0.97, neighboring frames of a
# video and copies with another brightness lie above 0.99.
_SIDE = 48
_NEAR = 0.99
_MOST_IMAGES = 20_000
_BLOCK = 2048
# From how many images on it is said that they are read.
_MANY = 1000


@dataclass
class _Facts:
    size: tuple[int, int]
    orientation: int
    mode: str
    digest: str
    thumbnail: NDArray[np.float32]


def look_at_images(data: ImageSet, findings: Findings) -> None:
    """Open every image in full, and leave out what cannot be read.

    Args:
        data: Its images get size, orientation, digest and thumbnail.
        findings: Gets unreadable images, colors, and EXIF's turns.
    """
    if len(data.images) > _MANY:
        print(f'Reading {len(data.images)} images …')
    kept = []
    with ThreadPoolExecutor() as pool:
        for image, facts in zip(
            data.images, pool.map(_facts, data.images), strict=True
        ):
            if isinstance(facts, str):
                findings.add('unreadable', image.path, LEFT_OUT, facts)
                continue
            image.size, image.orientation = facts.size, facts.orientation
            image.digest, image.thumbnail = facts.digest, facts.thumbnail
            _note_colors(image, facts.mode, findings)
            kept.append(image)
    data.images = kept


def _facts(image: AnnotatedImage) -> _Facts | str:
    """Return what an image is, or why it cannot be read."""
    try:
        with Image.open(image.path) as opened:
            mode = opened.mode
            orientation = opened.getexif().get(_ORIENTATION, 1)
            opened.load()
            upright = ImageOps.exif_transpose(opened)
        content = upright.tobytes()
        gray = upright.convert('L').resize(
            (_SIDE, _SIDE), Image.Resampling.BOX
        )
    except Exception as error:  # Pillow raises nearly anything on bad files
        return f'{type(error).__name__}: {error}'
    values = np.asarray(gray, np.float32).ravel()
    values = values - values.mean()
    return _Facts(
        size=upright.size,
        orientation=orientation if orientation in range(1, 9) else 1,
        mode=mode,
        digest=f'{mode} {upright.size} {_digest(content)}',
        thumbnail=values / max(float(np.linalg.norm(values)), 1.0),
    )


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _note_colors(image: AnnotatedImage, mode: str, findings: Findings) -> None:
    if mode in ('L', '1'):
        findings.add(
            'one channel', image.path, 'loaded with three equal channels'
        )
    elif mode in ('RGBA', 'LA', 'PA'):
        findings.add(
            'four channels', image.path, 'loaded without the alpha channel'
        )
    elif mode not in ('RGB', 'P'):
        findings.add(
            'other mode', image.path, 'loaded as 8-bit RGB', f'mode {mode}'
        )


@dataclass
class Repeats:
    """Groups of images with one content, and pairs of similar ones."""

    same: list[list[AnnotatedImage]]
    near: list[tuple[AnnotatedImage, AnnotatedImage]]


def find_repeats(images: list[AnnotatedImage]) -> Repeats:
    """Find images that repeat.

    Near repeats are pairs whose gray thumbnails correlate by 0.99 and more,
    so that brightness and contrast do not count. They are searched in up to
    20,000 images.
    """
    by_digest: dict[str, list[AnnotatedImage]] = defaultdict(list)
    for image in images:
        by_digest[image.digest].append(image)
    groups = list(by_digest.values())
    firsts = [group[0] for group in groups]
    near = []
    if 1 < len(firsts) <= _MOST_IMAGES:
        vectors = np.stack([image.thumbnail for image in firsts])
        for start in range(0, len(firsts), _BLOCK):
            alike = vectors[start : start + _BLOCK] @ vectors.T >= _NEAR
            for i, j in np.argwhere(alike).tolist():
                if start + i < j:
                    near.append((firsts[start + i], firsts[j]))
    return Repeats([group for group in groups if len(group) > 1], near)


def note_repeats(data: ImageSet, repeats: Repeats, findings: Findings) -> None:
    """Report repeats; take those of a tested split out of training."""
    out = set()
    for group in repeats.same:
        splits = {image.split for image in group}
        # What is tested stays, so that results compare with others'.
        stays = max(splits, key=lambda split: SPLITS.index(split or 'train'))
        names = ', '.join(image.path.name for image in group)
        for image in group:
            if image.split != stays:
                done = f'left out of {image.split}, kept in {stays}'
                findings.add('repeat', image.path, done, f'one of {names}')
                out.add(image.path)
        if len(splits) == 1:
            findings.add('same split', group[0].path, 'kept', names)
    near: dict[Path, list[AnnotatedImage]] = defaultdict(list)
    for pair in repeats.near:
        # The report names the one that is tested on.
        first, second = sorted(
            pair, key=lambda image: SPLITS.index(image.split or 'train')
        )
        if first.split != second.split and first.path not in out:
            near[second.path].append(first)
    for path, others in near.items():
        more = f' and {len(others) - 1} more' if len(others) > 1 else ''
        findings.add(
            'near repeat',
            path,
            'kept; results on them say little about new images',
            f'like {others[0].path.name} of {others[0].split}{more}',
        )
    data.images = [image for image in data.images if image.path not in out]
