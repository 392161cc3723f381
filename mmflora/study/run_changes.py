"""What has changed in a study since one of its runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmflora.config.build import read_config

from .run_configs import fingerprint

SHOWN = 3
"""So many settings are named."""


def change(
    line: Mapping[str, Any],
    old_config: Path,
    cfg: Config,
    versions: Mapping[str, str],
) -> str:
    """Return what differs between a run and what it would be now.

    Args:
        line: Its line in the log.
        old_config: The config that it was done with, if that is still there.
        cfg: Its config now.
        versions: The packages now.
    """
    known = line.get('versions', versions)
    moved = [
        f'{name} {known.get(name)}, now {versions.get(name)}'
        for name in sorted({*known, *versions})
        if known.get(name) != versions.get(name)
    ]
    if moved:
        return ', '.join(moved)
    if not old_config.is_file():
        return 'other settings'
    old = dict(_settings(read_config(str(old_config)).to_dict()))
    new = dict(_settings(cfg.to_dict()))
    names = [n for n in sorted({*old, *new}) if old.get(n) != new.get(n)]
    more = f' and {len(names) - SHOWN} more' * (len(names) > SHOWN)
    return f'other settings: {", ".join(names[:SHOWN])}{more}'


def _settings(node: Any, place: str = '') -> Iterator[tuple[str, str]]:
    """Yield the places of a config's values, each with a hash of the value."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _settings(value, f'{place}.{key}'.lstrip('.'))
    else:
        yield place, fingerprint(node)
