"""Which method a layer of an adapter's file has, and with which settings."""

import re
from typing import Any

from mmflora.adapters import Tuning
from mmflora.registry import ADAPTERS

from .adapter import AdapterFile


def method_name(options: dict[str, Any]) -> str:
    """Return a method's name; for those of peft theirs beside it.

    Args:
        options: A method's settings with its ``type``.
    """
    kind = str(options.get('type')).rpartition('.')[2]
    if kind == 'HFPEFT':
        return f'{kind} {str(options.get("peft_type")).upper()}'
    return kind


def layer_options(adapter: AdapterFile, layer: str) -> dict[str, Any]:
    """Return the method's settings for a layer, those of ``targets`` in it.

    Args:
        adapter: The adapter.
        layer: The layer's name in the model.

    Returns:
        With ``type``; empty for what is in no backbone.
    """
    return _options(adapter, layer, tuned=False)


def tuned_options(adapter: AdapterFile, key: str) -> dict[str, Any]:
    """Return the settings by which a parameter of the base was trained.

    Args:
        adapter: The adapter.
        key: The parameter's key in the model.
    """
    return _options(adapter, key.rpartition('.')[0], tuned=True)


def is_tuning(options: dict[str, Any]) -> bool:
    """Say whether a method trains parameters that the base already has."""
    kind = ADAPTERS.get(method_name(options).partition(' ')[0])
    return isinstance(kind, type) and issubclass(kind, Tuning)


def tuned_keys(adapter: AdapterFile) -> list[str]:
    """Return the keys of the base's parameters that were trained."""
    return [
        f'{name}.{key}' if name else key
        for name, backbone in adapter.config['backbones'].items()
        for key in backbone.get('tuned') or ()
    ]


def _options(adapter: AdapterFile, layer: str, tuned: bool) -> dict[str, Any]:
    """Return the settings of the first pattern that can mean a layer."""
    for name, backbone in adapter.config['backbones'].items():
        prefix = f'{name}.' if name else ''
        if not layer.startswith(prefix):
            continue
        method = backbone['method']
        common = dict(method.get('adapter') or {})
        targets = method.get('targets')
        own = layer.removeprefix(prefix)
        for pattern, changes in (
            targets.items() if isinstance(targets, dict) else ()
        ):
            options = merged_options(common, changes)
            if re.fullmatch(pattern, own) and is_tuning(options) == tuned:
                return options
        return common
    return {}


def merged_options(
    common: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Return a pattern's settings: another ``type`` has its own alone."""
    if own.get('type', common.get('type')) != common.get('type'):
        return dict(own)
    return {**common, **own}
