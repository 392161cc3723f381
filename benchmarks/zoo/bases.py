"""A base with random weights for each backbone of a config, as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from benchmarks.backbones import leave_constants
from mmflora.config.build import build_model
from mmflora.config.peft.backbones import find_backbones, move_pretrained
from mmflora.config.walk import find_dicts


def name_bases(cfg: Config, folder: Path) -> list[str]:
    """Name a file as the base of each backbone, where the config names none.

    Returns:
        The places of the backbones without weights.
    """
    move_pretrained(cfg)
    bare = []
    for place, node in find_backbones(cfg).items():
        if not _has_weights(node):
            bare.append(place)
            node['init_cfg'] = _pretrained(folder, place)
    return bare


def write_bases(cfg: Config, folder: Path) -> dict[str, dict[str, Tensor]]:
    """Write a base for each backbone, in the layout of its stock class.

    Parameters that start at a constant are moved off it: at zero they would
    keep gradients from layers.  Where a larger part of the model has weights
    too, it gets a file that holds the same backbone.

    Args:
        cfg: The stock config; it then names these files.
        folder: Where to write.

    Returns:
        What was written for each backbone, by file.
    """
    move_pretrained(cfg)
    written: dict[str, dict[str, Tensor]] = {}
    backbones = find_backbones(cfg)
    for place, node in backbones.items():
        state = _random_state(cfg, place, seed=len(written))
        node['init_cfg'] = _pretrained(folder, place)
        if 'convert_weights' in node:  # from the layout of its authors
            node['convert_weights'] = False
        written[node['init_cfg']['checkpoint']] = state
        _save(state, node)
    for place, node in find_dicts(cfg.model, 'model'):
        if _has_weights(node) and place not in backbones:
            state = _random_state(cfg, place, seed=99)
            for inner, backbone in backbones.items():
                if inner.startswith(f'{place}.'):
                    own = written[backbone['init_cfg']['checkpoint']]
                    prefix = inner.removeprefix(f'{place}.')
                    state |= {f'{prefix}.{k}': v for k, v in own.items()}
            node['init_cfg'] = _pretrained(folder, place)
            _save(state, node)
    return written


def _random_state(cfg: Config, place: str, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    part: Any = build_model(cfg, place, weights=False)
    if hasattr(part, 'init_weights'):
        part.init_weights()
    part.requires_grad_(True)
    leave_constants(part)
    return {key: value.clone() for key, value in part.state_dict().items()}


def _has_weights(node: Any) -> bool:
    init = node.get('init_cfg')
    return isinstance(init, Mapping) and init.get('type') == 'Pretrained'


def _save(state: Mapping[str, Tensor], node: Any) -> None:
    torch.save(dict(state_dict=dict(state)), node['init_cfg']['checkpoint'])


def _pretrained(folder: Path, place: str) -> dict[str, str]:
    return dict(type='Pretrained', checkpoint=str(folder / f'{place}.pth'))
