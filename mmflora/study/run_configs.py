"""The configs of a study's runs, and what identifies them."""

import copy
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmflora.config.build import read_config
from mmflora.config.check import check_paths
from mmflora.config.classes import check_classes
from mmflora.config.command_line import merge_options, parse_count
from mmflora.config.launch import settle_workers
from mmflora.config.peft import peft_config
from mmflora.count.budget import rank_for_budget, with_rank
from mmflora.count.parameters import build_on_meta, count_model
from mmflora.files.atomic import write_text

from .split_data import check_splits, set_split
from .study_file import Method, Study, Task

PACKAGES = {
    'mmflora': 'mmflora',
    'torch': 'torch',
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmseg': 'onedl-mmsegmentation',
    'mmrotate': 'onedl-mmrotate',
    'timm': 'timm',
    'peft': 'peft',
    'numpy': 'numpy',
}
"""The packages whose versions a result depends on."""


def versions() -> dict[str, str]:
    """Return the versions of Python and :data:`PACKAGES`."""
    found = dict(python=platform.python_version())
    for name, distribution in PACKAGES.items():
        for candidate in (distribution, name):
            try:
                found[name] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def fingerprint(value: Any) -> str:
    """Return a hash of settings, which knows no order of names."""
    text = json.dumps(_plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return repr(value)


class StudyConfigs:
    """The configs of a study, each made once.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._tasks: dict[str, Config] = {}
        self._methods: dict[tuple[str, str], Config] = {}
        self._ranks = study.work_dir / 'ranks.json'

    def task(self, task: Task) -> Config:
        """Return the config of a task, without a method.

        Raises:
            FileNotFoundError: If its data or weights are missing.
            ValueError: If its splits or classes do not fit.
        """
        if task.name in self._tasks:
            return self._tasks[task.name]
        try:
            cfg = copy.deepcopy(read_config(self._path(task.config)))
            merge_options(cfg, task.cfg_options)
            for split in ('val', 'test'):
                set_split(cfg, split, getattr(task, split))
            searches = len(self.study.lrs_of(task)) > 1
            check_splits(cfg, task.name, searches)
            if not searches:
                cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
            settle_workers(cfg)
            _of(cfg, self.study.lr_key)
            for stage in ('train', 'test'):
                check_paths(cfg, stage)
                check_classes(cfg, stage)
            if task.trained_as:
                self._check_training(cfg, self.study.training_of(task))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            kind: Any = type(error)
            kind = ValueError if kind is KeyError else kind
            raise kind(f"The task '{task.name}': {error}") from error
        self._tasks[task.name] = cfg
        return cfg

    def _check_training(self, cfg: Config, other: Task) -> None:
        """Check that a config trains as another task does."""
        ours, theirs = (
            {
                key: value
                for key, value in one.to_dict().items()
                if not key.startswith(('val_', 'test_'))
            }
            for one in (cfg, self.task(other))
        )
        wrong = [
            key
            for key in sorted({*ours, *theirs})
            if fingerprint(ours.get(key)) != fingerprint(theirs.get(key))
        ]
        if wrong:
            raise ValueError(
                f"it has trained_as='{other.name}', whose config has other "
                f'settings in {", ".join(wrong)}. Only the splits val and '
                'test may differ; leave trained_as out to train it.'
            )

    def method(self, task: Task, method: Method) -> Config:
        """Return the config of a task with a method in it.

        Raises:
            FileNotFoundError: If the method's file is missing.
            ValueError: If the method does not fit the task.
        """
        place = task.name, method.name
        if place not in self._methods:
            cfg = self.task(task)
            try:
                cfg = self._with_method(cfg, task, method)
            except (FileNotFoundError, TypeError, ValueError) as error:
                raise type(error)(
                    f"The method '{method.name}' in the task '{task.name}': "
                    f'{error}'
                ) from error
            self._methods[place] = cfg
        return self._methods[place]

    def run(self, task: Task, method: Method, lr: float, seed: int) -> Config:
        """Return the config of a run."""
        cfg = copy.deepcopy(self.method(task, method))
        cfg.merge_from_dict(
            {
                self.study.lr_key: lr,
                'randomness.seed': seed,
                'launcher': 'none',
            }
        )
        return cfg

    def frozen(self, task: Task, method: Method, seed: int) -> Config:
        """Return the config whose new modules all methods start with.

        Its base is that of the method; nothing else of the method is in it.
        """
        frozen = dict(adapter=None)
        cfg = peft_config(self.task(task), frozen, base=method.base)
        cfg.merge_from_dict({'randomness.seed': seed, 'launcher': 'none'})
        return cfg

    def _path(self, config: str) -> str:
        """Return a path that counts from the study file, if it is there."""
        beside = Path(self.study.path).parent / config
        return str(beside) if beside.is_file() else config

    def _with_method(self, cfg: Config, task: Task, method: Method) -> Config:
        source = method.method
        if isinstance(source, str):
            source = self._path(source)
        parts = {} if method.parts is None else dict(parts=method.parts)
        cfg = peft_config(cfg, source, base=method.base, **parts)
        if method.rank is not None:
            cfg = with_rank(cfg, method.rank)
        elif method.budget is not None:
            cfg = with_rank(cfg, self._rank(cfg, task, method))
        merge_options(cfg, method.cfg_options)
        _keep_the_end(cfg)
        return cfg

    def _rank(self, cfg: Config, task: Task, method: Method) -> int:
        """Return the rank that meets the budget; searched for once."""
        budget = method.budget
        if budget in self.study.methods:
            other = self.study.methods[str(budget)]
            if other.budget is not None:
                raise ValueError(
                    f"its budget is the method '{other.name}', which has a "
                    'budget itself. Give a number, or a method with a rank.'
                )
            model = build_on_meta(self.method(task, other))
            count = float(count_model(model).method)
        else:
            count = parse_count(str(budget), 'budget')
        key = fingerprint([cfg.to_dict()['model'], count])
        known = {}
        if self._ranks.is_file():
            known = json.loads(self._ranks.read_text())
        if key not in known:
            known[key] = rank_for_budget(cfg, count).rank
            write_text(self._ranks, json.dumps(known))
        return int(known[key])


def _keep_the_end(cfg: Config) -> None:
    """Keep the end of a training, and nothing else.

    Raises:
        ValueError: If nothing is kept, so that nothing could be tested.
    """
    hooks: Any = cfg.get('default_hooks') or {}
    if 'checkpoint' not in hooks:
        return  # MMEngine's own keeps the end
    if hooks['checkpoint'] is None:
        raise ValueError(
            'its config has no checkpoint hook (default_hooks.checkpoint is '
            'None), and a run is tested from its last checkpoint. Leave the '
            'hook in.'
        )
    hooks.checkpoint.max_keep_ckpts = 1
    hooks.checkpoint.pop('save_best', None)
    if not hooks.checkpoint.get('save_last', True):
        del hooks.checkpoint.save_last


def _of(cfg: Config, key: str) -> Any:
    """Return the setting at a place."""
    node: Any = cfg
    for part in key.split('.'):
        if not isinstance(node, Mapping) and not hasattr(node, part):
            node = {}
        node = node.get(part)
        if node is None:
            raise ValueError(
                f"the config has no '{key}', which the study sets. Name the "
                "place of the learning rate: lr_key='…'."
            )
    return node


def config_text(cfg: Config) -> str:
    """Return a config as Python's text, without formatting it.

    Raises:
        ValueError: If it holds an object that no text stands for.
    """
    lines = [
        f'{key} = {_text(value, key)}\n'
        for key, value in cfg.to_dict().items()
    ]
    return ''.join(lines)


def _text(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        items = [
            f'{key!r}: {_text(item, f"{where}.{key}")}'
            for key, item in value.items()
        ]
        return '{' + ', '.join(items) + '}'
    if isinstance(value, (list, tuple)):
        texts = [_text(v, f'{where}.{i}') for i, v in enumerate(value)]
        inner = ', '.join(texts)
        if isinstance(value, list):
            return f'[{inner}]'
        return f'({inner},)' if len(texts) == 1 else f'({inner})'
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, (str, bytes, int, float)) or value is None:
        return repr(value)
    raise ValueError(
        f'{where} is {value!r}, an object. Name it by its registered name.'
    )
