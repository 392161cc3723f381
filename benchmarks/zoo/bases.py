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


def write_bases(cfg: Config, folder: Path) -> dict[str, dict[str, Tensor]]:
    """Write the base of a config, in the layout of the stock classes.

    It is one file for each backbone, and one for each larger part with
    weights of its own, which holds the same backbone.  Where the config
    starts from a checkpoint of the whole model, or a backbone has no weights
    of its own, it is such a checkpoint.

    Args:
        cfg: The stock config; it then names these files.
        folder: Where to write.

    Returns:
        What was written, by file.
    """
    move_pretrained(cfg)
    written: dict[str, dict[str, Tensor]] = {}
    backbones = find_backbones(cfg)
    bare = not all(_has_weights(node) for node in backbones.values())
    if cfg.get('load_from') or bare:
        cfg.load_from = _pretrained(folder, 'model')['checkpoint']
        written[cfg.load_from] = _random_state(cfg, 'model')
        torch.save(dict(state_dict=written[cfg.load_from]), cfg.load_from)
        return written
    for place, node in backbones.items():
        state = _random_state(cfg, place, seed=len(written))
        node['init_cfg'] = _pretrained(folder, place)
        if 'convert_weights' in node:  # from the layout of its authors
            node['convert_weights'] = False
        written[node['init_cfg']['checkpoint']] = state
        _save(state, node)
    for place, node in find_dicts(cfg.model, 'model'):
        if isinstance(node.get('pretrained'), str):  # a second backbone
            state = _random_state(cfg, place, seed=98)
            node['pretrained'] = _pretrained(folder, place)['checkpoint']
            torch.save(dict(state_dict=state), node['pretrained'])
        elif _has_weights(node) and place not in backbones:
            state = _random_state(cfg, place, seed=99)
            for inner, backbone in backbones.items():
                if inner.startswith(f'{place}.'):
                    own = written.pop(backbone['init_cfg']['checkpoint'])
                    prefix = inner.removeprefix(f'{place}.')
                    state |= {f'{prefix}.{k}': v for k, v in own.items()}
            node['init_cfg'] = _pretrained(folder, place)
            written[node['init_cfg']['checkpoint']] = state
            _save(state, node)
    return written


def _random_state(cfg: Config, place: str, seed: int = 0) -> dict[str, Tensor]:
    """Draw the weights of a part.

    Parameters that start at a constant are moved off it: at zero they would
    keep gradients from layers.
    """
    torch.manual_seed(seed)
    part: Any = build_model(cfg, place, weights=False)
    if hasattr(part, 'init_weights'):
        part.init_weights()
    part.requires_grad_(True)
    leave_constants(part)
    return {key: value.clone() for key, value in part.state_dict().items()}


def _has_weights(node: Any) -> bool:
    init = node.get('init_cfg')
    return isinstance(init, Mapping) and 'checkpoint' in init


def _save(state: Mapping[str, Tensor], node: Any) -> None:
    torch.save(dict(state_dict=dict(state)), node['init_cfg']['checkpoint'])


def _pretrained(folder: Path, place: str) -> dict[str, str]:
    return dict(type='Pretrained', checkpoint=str(folder / f'{place}.pth'))
