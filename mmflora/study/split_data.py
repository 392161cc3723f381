"""The three splits of a task: training, validation and test, kept apart."""

import copy
import json
import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts

SPLITS = ('train', 'val', 'test')
LARGE = 64 * 2**20
"""The names in a larger file of annotations, in bytes, are not compared."""


def set_split(cfg: Config, split: str, changes: Mapping[str, Any]) -> None:
    """Change the data of a split.

    Args:
        cfg: The config, which is changed.
        split: ``'val'`` or ``'test'``.
        changes: Settings of its data set; the file of annotations becomes
            that of the evaluator, too, if that has one.
    """
    if not changes:
        return
    if cfg.get(f'{split}_dataloader') is None:
        raise ValueError(
            f"'{cfg.filename}' has no {split}_dataloader that {split}="
            f'{dict(changes)} could change.'
        )
    dataset = innermost(cfg[f'{split}_dataloader'].dataset)
    # Of prefixes each counts by itself; all else is replaced as a whole.
    prefix = changes.get('data_prefix')
    if prefix:
        changes = dict(changes)
        changes['data_prefix'] = {
            **(dataset.get('data_prefix') or {}),
            **prefix,
        }
    dataset.update(copy.deepcopy(dict(changes)))
    root = dataset.get('data_root') or ''
    for _, node in find_dicts(cfg.get(f'{split}_evaluator'), ''):
        if 'ann_file' in node and dataset.get('ann_file'):
            node['ann_file'] = os.path.join(root, dataset['ann_file'])


def innermost(dataset: Any) -> Any:
    """Return the data set within its wrappers."""
    while 'dataset' in dataset and 'pipeline' not in dataset:
        dataset = dataset['dataset']
    return dataset


def check_splits(cfg: Config, task: str, searches: bool) -> None:
    """Check that the splits are there, and not the same.

    Args:
        cfg: The config of a task.
        task: Its name, for the error.
        searches: Whether learning rates are chosen.

    Raises:
        ValueError: If one is missing, or two have the same images, see
            :func:`_settings` and :func:`_images`.
    """
    needed = SPLITS if searches else ('train', 'test')
    settings, images = {}, {}
    for split in needed:
        loader = cfg.get(f'{split}_dataloader')
        lacks = [
            name
            for name, value in (
                (f'{split}_dataloader', loader),
                (f'{split}_evaluator', cfg.get(f'{split}_evaluator')),
            )
            if value is None and name != 'train_evaluator'
        ]
        if lacks:
            why = (
                'learning rates are chosen on the validation split'
                if split == 'val'
                else f'it is the {split} split'
            )
            raise ValueError(
                f"The task '{task}' has no {' and no '.join(lacks)}: {why}. "
                'Add it to the config'
                + (', or give one learning rate.' if split == 'val' else '.')
            )
        settings[split], images[split] = _settings(loader), _images(loader)
    for one, other in (('val', 'test'), ('train', 'test'), ('train', 'val')):
        if not {one, other} <= {*needed}:
            continue
        both = sorted(images[one] & images[other])
        if settings[one] == settings[other] or both:
            shown = f'{len(both)}, such as {both[0]}' if both else ''
            raise ValueError(
                f"The task '{task}' has the same images in its {one} split "
                f'and its {other} split ({shown or settings[one]}). Name '
                f'others: {other}=dict(ann_file=…, data_prefix=…) of the task'
                + (
                    ', or give one learning rate, which needs no validation.'
                    if one == 'val'
                    else '.'
                )
            )


def _settings(loader: Mapping[str, Any]) -> str:
    """Return the settings that say which images a loader reads."""
    found = []
    for _, dataset in find_dicts(loader['dataset'], ''):
        settings = _places(dataset)
        if dataset.get('indices'):
            settings['indices'] = dataset['indices']
        if settings:
            found.append(', '.join(f'{k}={v}' for k, v in settings.items()))
    return '; '.join(found) or repr(dict(loader['dataset']))


def _places(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the files and folders of a data set, each written in one way."""
    root = dataset.get('data_root') or ''

    def resolved(path: Any) -> Any:
        if not isinstance(path, str) or '://' in path:
            return path
        return os.path.realpath(os.path.join(root, path))

    places: dict[str, Any] = {}
    if root:
        places['data_root'] = resolved('')
    if dataset.get('ann_file'):
        places['ann_file'] = resolved(dataset['ann_file'])
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, Mapping) and prefix:
        places['data_prefix'] = {k: resolved(v) for k, v in prefix.items()}
    elif prefix:
        places['data_prefix'] = resolved(prefix)
    return places


def _images(loader: Mapping[str, Any]) -> set[str]:
    """Return the images that the COCO files of a loader name.

    It is empty where that cannot be known: for other kinds of data, for large
    files, and for data sets that take some of the images (``indices``).
    """
    found: set[str] = set()
    for _, dataset in find_dicts(loader['dataset'], ''):
        places = _places(dataset)
        path = str(places.get('ann_file', ''))
        if not path.endswith('.json') or dataset.get('indices'):
            continue
        if not os.path.isfile(path) or os.path.getsize(path) > LARGE:
            continue
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        images = content.get('images', []) if isinstance(content, dict) else []
        folder = str(places.get('data_root', ''))
        if isinstance(places.get('data_prefix'), dict):
            folder = str(places['data_prefix'].get('img', folder))
        found |= {
            os.path.normpath(os.path.join(folder, str(image['file_name'])))
            for image in images
            if isinstance(image, dict) and 'file_name' in image
        }
    return found


def evaluated_on(cfg: Config, split: str) -> Config:
    """Return a config whose test is on a split."""
    cfg = copy.deepcopy(cfg)
    if split == 'val':
        cfg.test_dataloader = cfg.val_dataloader
        cfg.test_evaluator = cfg.val_evaluator
    cfg.setdefault('test_cfg', dict(type='TestLoop'))
    if cfg.test_cfg is None:
        cfg.test_cfg = dict(type='TestLoop')
    return cfg
