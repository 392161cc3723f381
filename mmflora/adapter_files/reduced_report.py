"""What lower ranks make of an adapter: a table, and the config to load it."""

import copy
import math
import os
from pathlib import Path

from mmengine.config import Config

from mmflora.config.build import read_config
from mmflora.config.walk import frozen_parts
from mmflora.files.atomic import write_text

from .adapter import AdapterFile
from .reduce import ReducedLayer


def reduction_table(rows: list[ReducedLayer]) -> str:
    """Return the rows as a table in plain text, with a line for all."""
    width = max(len('layer'), *(len(row.layer) for row in rows))
    lines = [
        f'{"layer":{width}}  rank        parameters           |ΔW|      '
        '|ΔW-ΔWr|  of |ΔW|'
    ]
    known = [row for row in rows if row.norm is not None]
    norms, errors = (
        math.hypot(*(getattr(row, name) for row in known))
        for name in ('norm', 'error')
    )
    before, after = (sum(row.parameters[i] for row in rows) for i in (0, 1))
    whole = ReducedLayer(
        'all',
        (0, 0),
        (before, after),
        norms if known else None,
        errors if known else None,
    )
    for row in (*rows, whole):
        ranks = f'{row.ranks[0]} -> {row.ranks[1]}' if row.ranks[0] else ''
        count = f'{row.parameters[0]:,} -> {row.parameters[1]:,}'
        line = f'{row.layer:{width}}  {ranks:10}  {count:19}'
        if row.norm is not None and row.error is not None:
            part = row.error / row.norm if row.norm else 0.0
            line += f'  {row.norm:<8.3g}  {row.error:<8.3g}  {part:7.2%}'
        lines.append(line.rstrip())
    return '\n'.join(lines)


def config_of(config: str | Config, adapter: AdapterFile) -> Config:
    """Return a config with the method that an adapter's description names.

    Args:
        config: A config of the same model, with adapters of any ranks.
        adapter: The adapter.

    Raises:
        ValueError: If the config has no such frozen part.
    """
    config = copy.deepcopy(read_config(config))
    parts = {
        part.module.removeprefix('model').removeprefix('.'): part
        for part in frozen_parts(config)
    }
    for name, backbone in adapter.config['backbones'].items():
        if name not in parts:
            raise ValueError(
                f"The config has no frozen part '{name}', which "
                f"'{adapter.path}' has; it has {sorted(parts)}. Give the "
                'config that the adapter was trained with.'
            )
        method = backbone['method']
        own = {key: method.get(key) for key in ('adapter', 'targets')}
        if not method.get('exclude'):
            own['exclude'] = ()
        parts[name].change(**own)
    return config


def write_config_of(
    config: str | Config, adapter: AdapterFile, out: str | os.PathLike[str]
) -> Path:
    """Write the config of an adapter beside it, see :func:`config_of`.

    Returns:
        The path: that of the adapter, with the ending ``.py``.
    """
    target = Path(out)
    if target.suffix in ('.pth', '.safetensors'):
        target = target.with_suffix('')
    target = target.with_name(target.name + '.py')
    write_text(target, config_of(config, adapter).pretty_text)
    return target
