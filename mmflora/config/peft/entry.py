"""From any config of a toolkit to a run with frozen parts and adapters."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..build import read_config
from ..walk import frozen_parts
from .adapting import adapt_backbones, adapt_parts, whole_base
from .backbones import others_left
from .changes import Change
from .existing import exchange_method
from .named_methods import Method, find_method
from .optimizer_settings import carry_over
from .runtime import use_runtime

Parts = Iterable[str] | Mapping[str, Any]


def peft_config(
    cfg: str | Config,
    method: str | Mapping[str, Any],
    parts: Parts | None = None,
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
            default the weights that the config names; ``load_from`` is a
            checkpoint of the whole model.

    Returns:
        A config that is complete in itself: tests, merges and inferencers
        take it as it is.

    Raises:
        FileNotFoundError: If a file is missing; the nearest are named.
        TypeError: If a setting of the method is unknown.
        ValueError: If the method is unknown, there is no part to adapt, there
            are no weights to freeze, or they are those of another model.

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
    parts: Parts | None = None,
    base: str | None = None,
    weights: bool = True,
) -> tuple[Config, list[Change]]:
    """Return what :func:`peft_config` does, and each change that it made.

    Args:
        cfg: As for :func:`peft_config`, and so are the next three.
        method: See there.
        parts: See there.
        base: See there.
        weights: Whether to read weights, which says what they lack.  Without,
            no file is needed, and the config is good for counting.
    """
    usual = find_method(method)
    methods = _methods_of_parts(parts, usual)
    result = copy.deepcopy(read_config(cfg))
    # Models are built in the config's scope; the caller's stays.
    with DefaultScope.overwrite_default_scope(result.get('default_scope')):
        changes = _adapt(result, usual, methods, base, weights)
    _rename(result, usual)
    return result, changes


def _adapt(
    result: Config,
    usual: Method,
    methods: dict[str, Method] | None,
    base: str | None,
    weights: bool,
) -> list[Change]:
    """Change a config, and return each change."""
    present = list(frozen_parts(result))
    if present:
        _check_alone(methods, base)
        changes = []
        for part in present:
            changes += exchange_method(result, part, usual)
        used = dict.fromkeys((_module(part.module) for part in present), usual)
    else:
        whole = whole_base(result, base, weights)
        if methods is not None or whole is not None:
            used, changes = adapt_parts(result, methods, usual, whole)
        else:
            used, changes = adapt_backbones(result, usual, base, weights)
        changes += others_left(result)
    frozen = [name for name, own in used.items() if not own.trains_base]
    changes += carry_over(result, frozen, len(frozen) < len(used))
    changes += use_runtime(result, [usual, *used.values()])
    return changes


def _methods_of_parts(
    parts: Parts | None, usual: Method
) -> dict[str, Method] | None:
    """Return the method of each part.

    Raises:
        ValueError: If parts are given, but none.
    """
    if parts is None:
        return None
    if isinstance(parts, str):
        parts = [parts]
    if not isinstance(parts, Mapping):
        parts = dict.fromkeys(parts)
    if not parts:
        raise ValueError(
            '`parts` is empty: name modules of the model, such as '
            "['backbone', 'neck'], or leave it out for the backbone."
        )
    return {
        name: usual if own is None else find_method(own)
        for name, own in parts.items()
    }


def _check_alone(parts: Any, base: Any) -> None:
    """Refuse parts and a base for a config that has them.

    Raises:
        ValueError: If there are any.
    """
    if parts is not None or base is not None:
        raise ValueError(
            'The config has frozen parts already, and their method alone is '
            'exchanged. Leave out the parts and the base (--peft-parts, '
            '--base), or start from the stock config.'
        )


def _module(place: str) -> str:
    return place.removeprefix('model.')


def _rename(cfg: Config, method: Method) -> None:
    """Name the config after the method, for work directories and dumps."""
    path = Path(cfg.filename or 'config.py')
    name = method.name.replace('/', '-')
    if not path.stem.endswith(name):
        path = path.with_name(f'{path.stem}_{name}.py')
    object.__setattr__(cfg, '_filename', str(path))
