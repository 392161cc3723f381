"""The two ways to freeze: backbones over their own weights, parts of a whole.

A backbone whose weights are its own becomes ``mmflora.PEFTBackbone``.  Where
the base is the checkpoint of a whole model, that model becomes
``mmflora.PEFTModel`` with frozen parts.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError

from mmengine.config import Config
from torch import nn

from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.files.sources import read_state_dict
from mmflora.models.peft_model import check_parts

from ..build import build_model, not_built
from .backbones import (
    check_weights,
    find_backbones,
    module_of,
    move_pretrained,
    release_stages,
    say_statistics,
    wrap_backbone,
)
from .changes import Change
from .named_methods import Method, fit_patterns, say_layers
from .new_params import declare_new
from .optimizer_settings import leave_amp
from .parts import match_parts, use_parts

Adapted = tuple[dict[str, Method], list[Change]]


def whole_base(cfg: Config, base: str | None, weights: bool) -> Any:
    """Return the base of the whole model, as an ``init_cfg``, if it is one.

    It is ``base``, where its keys are those of a model with its backbone;
    else ``load_from``; else what an ``init_cfg`` around the backbone names.

    Args:
        cfg: The config.
        base: The file that was given.
        weights: Whether files may be read.
    """
    if base is not None:
        if _is_whole(cfg, base):
            return dict(type='Pretrained', checkpoint=base)
        return None
    if not weights:
        return None
    if cfg.get('load_from'):
        return dict(type='Pretrained', checkpoint=cfg.load_from)
    try:
        home, _ = module_of(next(iter(find_backbones(cfg))))
    except ValueError:
        home = 'model'
    return pretrained_cfg(_node(cfg, home).get('init_cfg'))


def _is_whole(cfg: Config, base: str) -> bool:
    """Return whether a file holds a model around the backbone."""
    keys = read_state_dict(base)
    modules = {module_of(place)[1] for place in find_backbones(cfg)}
    return any(key.startswith(f'{name}.') for key in keys for name in modules)


def adapt_backbones(
    cfg: Config, method: Method, base: str | None, weights: bool
) -> Adapted:
    """Freeze and adapt the backbones of a config over their own weights.

    Args:
        cfg: The config; it is changed.
        method: How they are adapted.
        base: Weights of the backbone, in place of those that it names.
        weights: Whether weights are needed, and read.

    Returns:
        The method of each module, and what was changed.
    """
    changes = move_pretrained(cfg)
    backbones = find_backbones(cfg)
    autocast, precision = leave_amp(cfg)
    used = {}
    for place, node in backbones.items():
        if base is not None:
            before = (node.get('init_cfg') or {}).get('checkpoint')
            node['init_cfg'] = dict(type='Pretrained', checkpoint=base)
            where = f'{place}.init_cfg.checkpoint'
            changes.append(Change(where, before, base, 'the base'))
        if weights:
            changes += check_weights(place, node, method)
        stock = _build(cfg, place)
        own, dropped = fit_patterns(method, place, stock)
        changes += wrap_backbone(place, node, own, autocast) + dropped
        changes += say_statistics(place, stock, own)
        changes += say_layers(own, place, stock)
        if 'backbone' in node and (weights or _is_here(node['backbone'])):
            stock = _build(cfg, f'{place}.backbone')
            changes += declare_new(place, node, stock)
        used[place.removeprefix('model.')] = own
    return used, changes + precision


def adapt_parts(
    cfg: Config, methods: dict[str, Method] | None, usual: Method, base: Any
) -> Adapted:
    """Freeze and adapt parts of a config's model over a whole checkpoint.

    Args:
        cfg: The config; it is changed.
        methods: The method of each part; by default the backbone's.
        usual: The method of the backbone, where no parts are named.
        base: The ``init_cfg`` of the checkpoint.

    Returns:
        The method of each module, and what was changed.
    """
    home = 'model'
    if methods is None or _has_detector(cfg):
        places = list(find_backbones(cfg))
        home = module_of(places[0])[0]
        inside = [place for place in places if module_of(place)[0] == home]
        methods = methods or {module_of(place)[1]: usual for place in inside}
    stock = _build(cfg, home)
    chosen: dict[str, Method] = {}
    for text, method in methods.items():
        for path in match_parts(stock, {text: {}}):
            chosen.setdefault(path, method)
    check_parts(stock, chosen)
    autocast, changes = leave_amp(cfg)
    settings = {}
    for path, method in chosen.items():
        part = stock.get_submodule(path)
        where = f'{home}.parts.{path}'
        own, dropped = fit_patterns(method, where, part)
        settings[path] = dict(own.peft)
        if autocast and path.split('.')[-1] == 'backbone':
            settings[path].setdefault('autocast', autocast)
        changes += dropped + say_statistics(where, part, own)
        changes += say_layers(own, where, part)
        node = _node(cfg, home).get(path)
        if isinstance(node, Mapping):
            changes += release_stages(f'{home}.{path}', node)
    used = {
        f'{home}.{path}'.removeprefix('model.'): chosen[path]
        for path in chosen
    }
    try:
        return used, use_parts(cfg, settings, base, home) + changes
    except URLError as error:
        source = base['checkpoint'] if base else cfg.load_from
        raise ValueError(
            f"The base '{source}' cannot be fetched ({error.reason}). "
            'Download it, and name the file with --base.'
        ) from error


def _is_here(node: Mapping[str, Any]) -> bool:
    """Return whether a backbone's weights are a file of this machine."""
    source = pretrained_cfg(node.get('init_cfg'))
    return source is not None and os.path.isfile(source['checkpoint'])


def _has_detector(cfg: Config) -> bool:
    return isinstance(cfg.model.get('detector'), Mapping)


def _node(cfg: Config, place: str) -> Any:
    node: Any = cfg
    for key in place.split('.'):
        node = node[key]
    return node


def _build(cfg: Config, place: str) -> nn.Module:
    """Build what stands at a place, without weights and memory.

    Raises:
        ValueError: If the config's own class cannot be built.
    """
    try:
        return build_model(cfg, place, weights=False, device='meta')
    except Exception as error:
        raise not_built(
            cfg, place, error, ', before anything was changed'
        ) from error
