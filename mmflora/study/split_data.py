"""The three splits of a task: training, validation and test, kept apart."""

import copy
import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts

SPLITS = ('train', 'val', 'test')


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
        ValueError: If one is missing, or two are the same images.
    """
    needed = SPLITS if searches else ('train', 'test')
    images = {}
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
        images[split] = _images(loader)
    for one, other in (('val', 'test'), ('train', 'test'), ('train', 'val')):
        if one in images and images[one] == images.get(other):
            raise ValueError(
                f"The task '{task}' has the same images in its {one} split "
                f'and its {other} split ({images[one]}). Name others: '
                f'{other}=dict(ann_file=…, data_prefix=…) of the task'
                + (
                    ', or give one learning rate, which needs no validation.'
                    if one == 'val'
                    else '.'
                )
            )


def _images(loader: Mapping[str, Any]) -> str:
    """Return what says which images a loader reads."""
    found = []
    for _, dataset in find_dicts(loader['dataset'], ''):
        settings = {
            key: dataset[key]
            for key in ('data_root', 'ann_file', 'data_prefix', 'indices')
            if dataset.get(key)
        }
        if settings:
            if isinstance(settings.get('data_prefix'), Mapping):
                settings['data_prefix'] = dict(settings['data_prefix'])
            found.append(', '.join(f'{k}={v}' for k, v in settings.items()))
    return '; '.join(found) or repr(dict(loader['dataset']))


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
