"""Walks through configs: every dict, and the backbones with a frozen base."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmflora.registry import MODELS


def find_dicts(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every dict in a config, with its place, parents first."""
    if isinstance(node, Mapping):
        yield where, node
        for key, value in node.items():
            yield from find_dicts(value, f'{where}.{key}')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from find_dicts(value, f'{where}.{index}')


def adapted_backbones(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the backbones with a frozen base, with their places.

    They are those of mmflora that take ``peft``; they also take an
    ``autocast``.
    """
    for key, module in find_dicts(cfg.get('model'), 'model'):
        kind = module.get('type')
        if isinstance(kind, str) and kind.startswith('mmflora.'):
            builder = MODELS.get(kind)
            if builder and 'peft' in inspect.signature(builder).parameters:
                yield key, module


def use_plain_batch_norm(node: Any) -> None:
    """Turn SyncBN, which needs GPUs, into BN, everywhere in a config."""
    for _, module in find_dicts(node, ''):
        if module.get('type') in ('SyncBN', 'MMSyncBN'):
            module['type'] = 'BN'
