"""Whether data and heads of a config agree on the classes.

A head with fewer classes than the data fails in the first loss; on a GPU the
error does not say where.  MMDetection drops a name that the annotations lack,
and the labels after it shift.
"""

import difflib
import json
import mmap
import os
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from .build import register_toolkit
from .check import LOADERS
from .walk import find_dicts

HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
"""The heads that predict the classes of the data."""

OTHER_HEADS = ('STDCHead', 'SideAdapterCLIPHead')
"""Heads of these names that predict boundaries, or words and background."""

READERS = ('CocoDataset', 'DOTADataset', 'XMLDataset', 'BaseSegDataset')
"""Data sets whose classes are those of ``METAINFO`` and ``metainfo``."""

_MOST_FILES = 200
_MOST_BYTES = 2**24


def check_classes(cfg: Config, stage: str) -> None:
    """Check that data, annotations and heads have the same classes.

    Some things cannot be read and are not checked: other formats of
    annotations, missing files, heads without ``num_classes``.

    Args:
        cfg: The whole config, all options merged.
        stage: ``'train'``, which looks at validation too, or ``'test'``.

    Raises:
        ValueError: If they differ; lists all places.
    """
    register_toolkit(cfg)
    wrong: list[str] = []
    heads = dict(_heads(cfg))
    for loader in LOADERS[stage]:
        node = cfg.get(loader)
        dataset = node.get('dataset') if isinstance(node, Mapping) else None
        for place, settings in find_dicts(dataset, f'{loader}.dataset'):
            kind = _dataset_class(settings, cfg.default_scope)
            classes = _classes(settings, kind)
            if not classes or not _reads_as(kind, *READERS):
                continue
            for head, count in heads.items():
                if count != len(classes):
                    wrong.append(
                        f'{place} ({kind.__name__}) has {len(classes)} '
                        f'classes, {head}.num_classes is {count}'
                    )
            wrong += _misnamed(place, settings, kind, classes)
    if wrong:
        raise ValueError(
            'Data and model disagree on the classes:\n  '
            + '\n  '.join(dict.fromkeys(wrong))
            + '\nSet `num_classes` of every head to the number of classes, '
            'and `metainfo=dict(classes=...)` of every data set to the names '
            'that its annotations have.'
        )


def training_classes(cfg: Config) -> tuple[str, ...]:
    """Return the names of the classes of a config's training data.

    Returns:
        Nothing where they cannot be known without reading the data.
    """
    loader = cfg.get('train_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    for _, settings in find_dicts(dataset, ''):
        classes = _classes(settings, _dataset_class(settings, _scope(cfg)))
        if classes:
            return classes
    return ()


def _scope(cfg: Config) -> str:
    return str(cfg.get('default_scope'))


def _heads(cfg: Config) -> Iterator[tuple[str, int]]:
    """Yield heads that predict the data's classes, with their number."""
    for place, node in find_dicts(cfg.get('model'), 'model'):
        if 'language_model' in node:  # its classes are words of a prompt
            return
        parts = [part for part in place.split('.') if not part.isdigit()]
        count = node.get('num_classes')
        other = node.get('type') in OTHER_HEADS
        if parts[-1] in HEADS and isinstance(count, int) and not other:
            yield place, count


def _dataset_class(settings: Mapping[str, Any], scope: str) -> Any:
    kind = settings.get('type')
    if not isinstance(kind, str) or 'pipeline' not in settings:
        return kind if isinstance(kind, type) else None
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return registry.get(kind)


def _classes(settings: Mapping[str, Any], kind: Any) -> tuple[str, ...]:
    """Return the names that a data set has, in its order."""
    own = {**getattr(kind, 'METAINFO', {}), **(settings.get('metainfo') or {})}
    classes = own.get('classes') or ()
    panoptic = 'stuff_classes' in own  # heads have a part of them each
    return () if panoptic or isinstance(classes, str) else tuple(classes)


def _misnamed(
    place: str, settings: Mapping[str, Any], kind: Any, classes: Collection
) -> Iterator[str]:
    """Yield what differs between the names and those in the annotations."""
    ann_file = settings.get('ann_file')
    if not isinstance(ann_file, str):
        return
    path = Path(settings.get('data_root') or '', ann_file)
    if _reads_as(kind, 'CocoDataset') and path.is_file():
        known = _coco_categories(path)
        for name in classes if known else ():
            if name not in known:
                yield (
                    f"{place}: '{path}' has no category '{name}'"
                    + _nearest(name, known)
                )
    elif _reads_as(kind, 'DOTADataset') and path.is_dir():
        for name in sorted(_dota_names(path) - set(classes)):
            yield (
                f"{place}: '{path}' has objects of '{name}', no class"
                + _nearest(name, classes)
            )


def _reads_as(kind: Any, *names: str) -> bool:
    """Return whether a data set reads annotations as a known class does."""
    return any(
        base.__name__ in names
        and getattr(base, 'load_data_list', None)
        is getattr(kind, 'load_data_list', 0)
        for base in getattr(kind, '__mro__', ())
    )


def _coco_categories(path: Path) -> list[str]:
    """Return the names in a COCO file, without reading its annotations."""
    if not path.stat().st_size:
        return []
    with (
        open(path, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        at = content.rfind(b'"categories"')
        text = content[at : at + _MOST_BYTES] if at >= 0 else b''
    start = text.partition(b':')[2].decode(errors='replace').lstrip()
    try:
        found, _ = json.JSONDecoder().raw_decode(start)
        return [category['name'] for category in found]
    except (KeyError, TypeError, ValueError):
        return []


def _dota_names(folder: Path) -> set[str]:
    """Return the names of objects in the first files of DOTA's format."""
    names = set()
    files = (file for file in os.scandir(folder) if file.name.endswith('.txt'))
    for file in islice(files, _MOST_FILES):
        for line in Path(file.path).read_text(errors='replace').splitlines():
            parts = line.split()
            if len(parts) > 8:
                names.add(parts[8])
    return names


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, [str(each) for each in known], n=1)
    return f"; the nearest is '{near[0]}'" if near else ''
