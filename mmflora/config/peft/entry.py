"""From any config of a toolkit to a run with frozen parts and adapters."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..build import read_config
from ..walk import frozen_parts
from .backbones import (
    exchange_method,
    find_backbones,
    fit_patterns,
    move_pretrained,
    wrap_backbone,
)
from .changes import Change
from .named_methods import Method, find_method
from .optimizer_settings import carry_over, leave_amp
from .runtime import use_runtime


def peft_config(
    cfg: str | Config,
    method: str | Mapping[str, Any],
    parts: Iterable[str] | Mapping[str, Any] | None = None,
    base: str | None = None,
) -> Config:
    """Return a config as a run with a frozen base and adapters.

    Args:
        cfg: A config of MMDetection, MMSegmentation or MMRotate, its path, or
            its name (``'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'``).  It
            is not changed.
        method: A name of ``configs/_base_/methods`` (``'flora-r16'``), the
            path of such a file, or a dict: ``dict(type='FLoRA', rank=16)``,
            or all settings of ``peft``.
        parts: The modules of the model to freeze and adapt, by path or
            pattern; a mapping gives each a method of its own (``None``: the
            method above).  By default the backbone.
        base: A checkpoint: of the whole model, or of the backbone alone.  By
            default the weights that the config names.

    Returns:
        A config that is complete in itself: tests, merges and inferencers
        take it as it is.

    Raises:
        FileNotFoundError: If a file is missing; the nearest are named.
        TypeError: If a setting of the method is unknown.
        ValueError: If the method is unknown, there is no part to adapt or no
            weights to freeze.

    Example:
        >>> cfg = mmflora.peft_config(
        ...     'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'flora-r16'
        ... )
        >>> cfg.dump('mask-rcnn_r50_fpn_flora-r16.py')
    """
    return adapt_config(cfg, method, parts, base)[0]


def adapt_config(
    cfg: str | Config,
    method: str | Mapping[str, Any],
    parts: Iterable[str] | Mapping[str, Any] | None = None,
    base: str | None = None,
) -> tuple[Config, list[Change]]:
    """Return what :func:`peft_config` does, and each change that it made."""
    found = find_method(method)
    source = read_config(cfg)
    result = copy.deepcopy(source)
    changes = _adapt(result, found, parts, base)
    _rename(result, found)
    return result, changes


def _adapt(
    cfg: Config,
    method: Method,
    parts: Iterable[str] | Mapping[str, Any] | None,
    base: str | None,
) -> list[Change]:
    if parts is not None or base is not None:
        raise ValueError('Parts and another base are not supported.')
    present = {p.place: p.node for p in frozen_parts(cfg) if not p.path}
    if present:
        changes = []
        for place, node in present.items():
            changes += exchange_method(place, node, method)
        names = list(present)
    else:
        changes = move_pretrained(cfg)
        backbones = find_backbones(cfg)
        autocast, precision = leave_amp(cfg)
        for place, node in backbones.items():
            fitted, dropped = fit_patterns(cfg, place, method)
            changes += wrap_backbone(place, node, fitted, autocast) + dropped
        changes += precision
        names = list(backbones)
    modules = [name.removeprefix('model.') for name in names]
    changes += carry_over(cfg, modules, method.trains_base)
    changes += use_runtime(cfg, method)
    return changes


def _rename(cfg: Config, method: Method) -> None:
    """Name the config after the method, for work directories and dumps."""
    path = Path(cfg.filename or 'config.py')
    if not path.stem.endswith(method.name):
        path = path.with_name(f'{path.stem}_{method.name}.py')
    object.__setattr__(cfg, '_filename', str(path))
