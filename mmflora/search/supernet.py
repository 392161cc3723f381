"""A supernet with its validation data: what architectures are tested on."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

from mmengine.config import Config

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.gaps import without_wrappers
from mmflora.config.build import build_runner
from mmflora.config.check import check_paths
from mmflora.config.classes import check_classes


def validation_config(cfg: Config) -> Config:
    """Return a config whose test is the validation of another.

    Only what validates is left of the hooks, as those of a training have
    nothing to do, and a log of each test would be long.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If the config has no validation.
    """
    cfg = copy.deepcopy(cfg)
    for name in ('val_dataloader', 'val_evaluator'):
        if not cfg.get(name):
            raise ValueError(
                f"The config '{cfg.filename}' has no {name}, but "
                'architectures are compared on the validation data. Add '
                'val_dataloader, val_evaluator and val_cfg, of images that '
                'neither train nor test.'
            )
    half = bool((cfg.get('val_cfg') or {}).get('fp16'))
    cfg.test_cfg = dict(type='TestLoop', fp16=half)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = cfg.val_evaluator
    hooks = dict(cfg.get('default_hooks') or {}, checkpoint=None, logger=None)
    hooks.pop('visualization', None)
    cfg.default_hooks = hooks
    cfg.log_level = 'WARNING'
    check_paths(cfg, 'test')
    check_classes(cfg, 'test')
    return cfg


class Supernet:
    """A trained supernet whose architectures are tested in place.

    Args:
        cfg: Its config, see :func:`validation_config`.
        checkpoint: Its checkpoint or adapter.
        layers: The names of the layers of its architectures.

    Raises:
        ValueError: If the checkpoint is of another config.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, layers: Collection[str]
    ) -> None:
        cfg.load_from = checkpoint
        self.runner = build_runner(cfg)
        modules = adapted_modules(without_wrappers(self.runner.model))
        if modules.keys() != set(layers):
            other = sorted(modules.keys() ^ set(layers))
            raise ValueError(
                f"'{checkpoint}' is no checkpoint of '{cfg.filename}': only "
                f'one of them adapts {", ".join(other[:5])}'
                f'{", …" if len(other) > 5 else ""}. Give the config that the '
                'supernet was trained with.'
            )
        self.adapters = {name: one.adapter for name, one in modules.items()}

    def test(self, ranks: Mapping[str, int]) -> dict[str, float]:
        """Return the metrics of an architecture, with inherited weights.

        Args:
            ranks: By the names of the layers.
        """
        adapters: Mapping[str, Any] = self.adapters
        for name, adapter in adapters.items():
            adapter.prefix = ranks[name]
        try:
            found: dict[str, float] = self.runner.test()
        finally:
            for adapter in adapters.values():
                adapter.prefix = None
        return {
            name: float(value)
            for name, value in found.items()
            if isinstance(value, (int, float)) or hasattr(value, 'item')
        }
