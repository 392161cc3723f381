"""Write a domain's scenes in the formats asked for, or find them there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock

from .ade20k import Ade20kWriter
from .classes import CLASSES
from .coco import CocoWriter
from .domains import DOMAINS
from .dota import DotaWriter
from .scenes import Scene, draw_scene

SPLITS = ('train', 'val')
MANIFEST = 'shapes.json'
MIN_IMAGE_SIZE = 64
"""The smallest objects of a picture of this size are 12 pixels across."""

_GENERATOR_VERSION = 2  # Raise it when the same seed draws other files.
_STAGING = '.staging'

Progress = Callable[[int, int], None]


class Writer(Protocol):
    """What a format provides; ``folder`` lies below that of the domain."""

    folder: str

    def __init__(self, root: Path, splits: tuple[str, ...]) -> None: ...

    def add(self, split: str, scene: Scene) -> None:
        """Write the next scene of a split."""

    def close(self) -> None:
        """Write what can only be written after all scenes."""


FORMATS: dict[str, type[Writer]] = dict(
    coco=CocoWriter, dota=DotaWriter, ade20k=Ade20kWriter
)


def write_shapes(
    root: str | Path,
    domain: str,
    *,
    num_train: int,
    num_val: int,
    image_size: int = 128,
    seed: int = 0,
    formats: Iterable[str] = tuple(FORMATS),
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Write one domain of the shapes data, or reuse it.

    Every format holds the same scenes. A scene depends on seed, domain,
    split and its number only, so a smaller set is the beginning of a larger
    one, and the same arguments give the same bytes. A format that is
    already there with the same parameters is left alone. A new one appears
    under its name only when it is whole.

    Args:
        root: The folder of all domains.
        domain: A key of ``DOMAINS``.
        num_train: Pictures to train on.
        num_val: Pictures to validate on.
        image_size: Height and width in pixels, at least ``MIN_IMAGE_SIZE``.
        seed: Of the random streams, not negative.
        formats: Keys of ``FORMATS``.
        progress: Called with the scenes done and all scenes, after each
            scene; not called when everything is there.

    Returns:
        For each format, the folder that a config names as ``data_root``.

    Raises:
        ValueError, TypeError: A parameter is not one of the allowed ones.
        FileExistsError: Files that this function has not written stand
            where the data belongs.

    Examples:
        >>> roots = write_shapes('data/shapes', 'source', num_train=320,
        ...                      num_val=80, formats=['coco'])
        >>> roots['coco']
        PosixPath('data/shapes/source/coco')
    """
    chosen = _check_names(domain, formats)
    parameters = _check_numbers(
        num_train=(num_train, 1),
        num_val=(num_val, 1),
        image_size=(image_size, MIN_IMAGE_SIZE),
        seed=(seed, 0),
    )
    parameters.update(
        domain=domain, look=repr(DOMAINS[domain]), version=_GENERATOR_VERSION
    )
    home = Path(root) / domain
    roots = {name: home / FORMATS[name].folder for name in chosen}
    if _missing(roots, parameters):
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / '.lock'):
            # Another process may have written them meanwhile.
            missing = _missing(roots, parameters)
            for data_root in missing.values():
                _check_replaceable(data_root)
            if missing:
                _write(home, missing, parameters, progress)
    return roots


def read_counts(data_root: Path) -> dict[str, dict[str, int]]:
    """Read how often each class occurs: by split, then by class."""
    manifest = json.loads((data_root / MANIFEST).read_text(encoding='utf-8'))
    counts: dict[str, dict[str, int]] = manifest['counts']
    return counts


def _check_names(domain: str, formats: Iterable[str]) -> list[str]:
    if domain not in DOMAINS:
        raise ValueError(
            f'Unknown domain {domain!r} of the shapes data; '
            f'choose one of {", ".join(DOMAINS)}.'
        )
    if isinstance(formats, str):
        raise TypeError(
            f'formats is the string {formats!r}; give a list of '
            f'names, for example [{formats!r}].'
        )
    chosen = list(dict.fromkeys(formats))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        raise ValueError(
            f'formats of the shapes data is {chosen}; choose '
            f'one or more of {", ".join(FORMATS)}.'
        )
    return chosen


def _check_numbers(**numbers: tuple[Any, int]) -> dict[str, Any]:
    """Check ``name=(value, smallest)``; return the values."""
    for name, (value, smallest) in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(
                f'{name} of the shapes data is {value!r}, a '
                f'{type(value).__name__}; give an int of '
                f'{smallest} or more.'
            )
        if value < smallest:
            raise ValueError(
                f'{name} of the shapes data is {value}; give '
                f'{smallest} or more.'
            )
    return {name: value for name, (value, _) in numbers.items()}


def _count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob('*'))


def _is_complete(data_root: Path, parameters: dict[str, Any]) -> bool:
    try:
        text = (data_root / MANIFEST).read_text(encoding='utf-8')
        manifest = json.loads(text)
        found = manifest['parameters'], manifest['files']
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == (parameters, _count_files(data_root))


def _missing(
    roots: dict[str, Path], parameters: dict[str, Any]
) -> dict[str, Path]:
    return {
        name: data_root
        for name, data_root in roots.items()
        if not _is_complete(data_root, parameters)
    }


def _check_replaceable(data_root: Path) -> None:
    """Refuse to replace what is not known to be generated."""
    if (
        data_root.exists()
        and not (data_root / MANIFEST).is_file()
        and (not data_root.is_dir() or any(data_root.iterdir()))
    ):
        raise FileExistsError(
            f'{data_root} has no {MANIFEST}, so it may not be generated data '
            'and is not replaced. Move it away, or give another root.'
        )


def _scenes(parameters: dict[str, Any]) -> Iterator[tuple[str, Scene]]:
    """Draw all scenes, each from a random stream of its own."""
    domain = parameters['domain']
    for split_key, split in enumerate(SPLITS):
        for number in range(parameters[f'num_{split}']):
            stream = np.random.SeedSequence(
                parameters['seed'],
                spawn_key=(list(DOMAINS).index(domain), split_key, number),
            )
            # Every class occurs within as many scenes as there are classes.
            yield (
                split,
                draw_scene(
                    np.random.default_rng(stream),
                    DOMAINS[domain],
                    parameters['image_size'],
                    number % len(CLASSES),
                ),
            )


def _write(
    home: Path,
    roots: dict[str, Path],
    parameters: dict[str, Any],
    progress: Progress | None,
) -> None:
    """Write beside the final place, then move there."""
    staging = home / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staged = {name: staging / name for name in roots}
    writers = [FORMATS[name](staged[name], SPLITS) for name in roots]
    counts = {split: dict.fromkeys(CLASSES, 0) for split in SPLITS}
    total = sum(parameters[f'num_{split}'] for split in SPLITS)
    for done, (split, scene) in enumerate(_scenes(parameters), start=1):
        for writer in writers:
            writer.add(split, scene)
        for thing in scene.objects:
            counts[split][CLASSES[thing.label]] += 1
        if progress is not None:
            progress(done, total)
    for writer in writers:
        writer.close()
    for name, data_root in roots.items():
        manifest = dict(
            parameters=parameters,
            counts=counts,
            files=_count_files(staged[name]) + 1,
        )
        (staged[name] / MANIFEST).write_text(
            json.dumps(manifest, indent=2) + '\n', encoding='utf-8'
        )
        data_root.parent.mkdir(parents=True, exist_ok=True)
        if data_root.exists():
            data_root.rename(staging / f'{name}.old')
        staged[name].rename(data_root)
    shutil.rmtree(staging)
