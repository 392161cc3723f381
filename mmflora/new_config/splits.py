"""Splits the images where the folder does not: seeded, stratified."""

import random
from collections import Counter
from collections.abc import Sequence

from .annotated_images import SPLITS, AnnotatedImage, ImageSet
from .findings import Findings
from .image_files import Repeats

DEFAULT_PARTS = (0.7, 0.15, 0.15)
"""Of training, validation and test, where the folder names no split."""


def split_images(
    data: ImageSet,
    repeats: Repeats,
    findings: Findings,
    parts: Sequence[float] = DEFAULT_PARTS,
    seed: int = 0,
) -> str:
    """Give each image a split, unless the folder has done so.

    Args:
        data: Its images get their split.
        repeats: What stays together.
        findings: Gets classes that a split does not have.
        parts: Of training, validation and test.
        seed: Of the order.

    Returns:
        What was done, for the report.

    Raises:
        ValueError: If there are too few images, or none for training.
    """
    if len(data.images) < 2:
        raise ValueError(
            f"--data: '{data.root}' has {len(data.images)} usable image(s). "
            'At least two are needed: one to train on, one to validate on.'
        )
    sizes = Counter(image.split for image in data.images)
    said = _as_in_folder(data) if data.has_splits else None
    if said is None:
        clusters = _clusters(data.images, repeats)
        if len(clusters) == 1:
            clusters = [[image] for image in data.images]
        _divide(clusters, dict(zip(SPLITS, parts, strict=True)), seed)
        said = f'by image, stratified, seed {seed}'
    elif not sizes['val'] and not sizes['test']:
        train = data.split('train')
        # Without a part for validation, the one for a test, which serves.
        name, part = ('val', parts[1]) if parts[1] else ('test', parts[2])
        share = part / (parts[0] + part)
        _divide(
            _clusters(train, repeats),
            {'train': 1 - share, name: share},
            seed,
        )
        what = dict(val='validation', test='a test')[name]
        said += f'; {what} cut off training, stratified, seed {seed}'
    for one, other in (('val', 'test'), ('test', 'val')):
        if not data.split(one) and data.split(other):
            said += f'; no {one} images: those of {other} serve'
    for split in SPLITS:
        if data.task != 'semantic' and data.split(split):
            for name, count in data.counts(split).items():
                if not count:
                    findings.add('class without examples', name, 'kept', split)
    return said


def _as_in_folder(data: ImageSet) -> str:
    """Check the splits of the folder; those without one are left out."""
    data.images = [image for image in data.images if image.split]
    if not data.split('train'):
        raise ValueError(
            f"--data: '{data.root}' has no image for training: "
            + ', '.join(f'{s} {len(data.split(s))}' for s in SPLITS)
            + '. To divide all images anew: --resplit'
        )
    return 'as in the folder'


def _clusters(
    images: Sequence[AnnotatedImage], repeats: Repeats
) -> list[list[AnnotatedImage]]:
    """Return groups of images that must not be divided."""
    cluster = {id(image): [image] for image in images}
    pairs = [*repeats.near]
    for group in repeats.same:
        pairs += [(group[0], other) for other in group[1:]]
    for first, second in pairs:
        if id(first) not in cluster or id(second) not in cluster:
            continue
        one, other = cluster[id(first)], cluster[id(second)]
        if one is not other:
            one += other
            cluster.update((id(image), one) for image in other)
    unique = {id(group): group for group in cluster.values()}
    return list(unique.values())


def _labels(group: Sequence[AnnotatedImage]) -> Counter[object]:
    """Count what a group of images holds, and the images themselves."""
    counted: Counter[object] = Counter()
    for image in group:
        counted.update(instance.label for instance in image.instances)
        counted.update(dict.fromkeys(image.pixels, 1))
    counted[None] = len(group)
    return counted


def _divide(
    clusters: list[list[AnnotatedImage]], parts: dict[str, float], seed: int
) -> None:
    """Divide groups of images so that each split gets its share of a class.

    Iterative stratification: the rarest class first, each of its images to
    the split that lacks most of it (Sechidis et al., 2011).
    """
    random.Random(seed).shuffle(clusters)
    held = [_labels(group) for group in clusters]
    total: Counter[object] = Counter()
    for labels in held:
        total.update(labels)
    names = [name for name, part in parts.items() if part > 0]
    whole = sum(parts[name] for name in names)
    lack = {
        name: {k: n * parts[name] / whole for k, n in total.items()}
        for name in names
    }
    left = dict(enumerate(held))

    def give(index: int, name: str) -> None:
        for image in clusters[index]:
            image.split = name
        for key, count in left.pop(index).items():
            lack[name][key] -= count

    # No split stays empty: the smallest groups go to the smallest splits.
    for name in sorted(names, key=lambda n: parts[n])[: len(clusters)]:
        give(min(left, key=lambda i: (held[i][None], i)), name)
    for key in sorted(total, key=lambda k: (k is None, total[k], str(k))):
        for index in [i for i, labels in left.items() if labels[key]]:
            give(
                index,
                max(names, key=lambda n: (lack[n][key], lack[n][None])),
            )
