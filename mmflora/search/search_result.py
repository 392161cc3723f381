"""What a search leaves: a config, its adapter, and what to do with them."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from mmflora.adapter_files.adapter import AdapterFile
from mmflora.adapter_files.reduce import reduce_ranks
from mmflora.adapter_files.reduced_report import write_config_of
from mmflora.adapter_files.write import write_adapter

from .space import Architecture, Space


def write_found(
    cfg: Config, adapter: AdapterFile, ranks: Mapping[str, int], stem: Path
) -> tuple[Path, Path]:
    """Write the config of an architecture, and its inherited weights.

    Args:
        cfg: The supernet's config.
        adapter: The trained supernet.
        ranks: Those of the architecture, by the names of the layers.
        stem: The files' path, without their endings.

    Returns:
        The paths of the config and of the adapter.
    """
    own, _ = reduce_ranks(adapter, prefix=True, ranks=ranks)
    cfg = Config(cfg.to_dict())
    # A run of it is another one than the supernet's.
    cfg.pop('work_dir', None)
    target = stem.with_name(f'{stem.name}.safetensors')
    write_adapter(own, target)
    return write_config_of(cfg, own, target), target


def architecture_table(space: Space, architecture: Architecture) -> str:
    """Return the ranks of all layers as a table in plain text."""
    width = max(len('layer'), *(len(one.name) for one in space.layers))
    lines = [f'{"layer":{width}}  {"method":16}  {"rank":>9}  parameters']
    for layer, cost, rank in zip(
        space.layers, space.costs, architecture, strict=True
    ):
        share = f'{rank} of {layer.ranks[-1]}'
        lines.append(
            f'{layer.name:{width}}  {layer.method:16}  {share:>9}  '
            f'{cost[rank]:>10,}'
        )
    total = space.parameters(architecture)
    lines.append(f'{"all":{width}}  {"":16}  {"":>9}  {total:>10,}')
    return '\n'.join(lines)
