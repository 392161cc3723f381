"""Which layout the file of a base has, as an adapter's description says."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmflora.files.pickles import read_safely
from mmflora.files.sources import TIMM_SCHEME, is_local
from mmflora.files.stored_tensors import unwrap
from mmflora.files.tensor_files import read_head

# The first that matches a key decides; see layouts/convnext_keys.py.
_SIGNS = (
    ('fair', r'stages\.\d+\.\d+\.(dwconv|pwconv1)\.'),
    ('mmpretrain', r'stages\.\d+\.\d+\.(depthwise_conv|pointwise_conv1)\.'),
    ('timm', r'(stages\.\d+\.blocks|blocks|layers)\.\d+\.'),
    ('timm', r'stages\.\d+\.downsample\.'),
)


def layout_of(keys: Iterable[str]) -> str | None:
    """Return the layout of a file by its keys.

    Args:
        keys: Keys of its weights, with or without prefixes.

    Returns:
        ``'fair'``, ``'timm'``, ``'mmpretrain'``, or ``None`` for a
        backbone's own.
    """
    names = list(keys)
    for layout, sign in _SIGNS:
        if any(re.search(rf'(^|\.){sign}', name) for name in names):
            return layout
    return None


def layout_of_source(source: Mapping[str, Any] | None) -> str | None:
    """Return the layout of a base's file, as far as it can be seen here.

    Returns:
        See :func:`layout_of`; ``None`` also for files that are elsewhere.
    """
    place = str((source or {}).get('checkpoint', ''))
    if place.startswith(TIMM_SCHEME):
        return 'timm'
    path = Path(os.path.expanduser(place))
    if not place or not is_local(place) or not path.is_file():
        return None
    return layout_of(_keys(path))


def _keys(path: Path) -> list[str]:
    """Return the keys of a file of weights; none if it cannot be read."""
    try:
        if path.suffix == '.safetensors':
            return read_head(path)[1]
        # On the meta device no value is read.
        weights = unwrap(read_safely(path, 'meta'))
    except (OSError, ValueError):
        return []
    return [key for key in weights if isinstance(key, str)]
