"""A base with random weights for each backbone of a config, as a file."""

from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from benchmarks.backbones import leave_constants
from mmflora.config.build import build_model
from mmflora.config.peft.backbones import find_backbones, move_pretrained


def name_bases(cfg: Config, folder: Path) -> list[str]:
    """Name a file as the base of each backbone, where the config names none.

    Returns:
        The places of the backbones without weights.
    """
    move_pretrained(cfg)
    bare = []
    for place, node in find_backbones(cfg).items():
        if (node.get('init_cfg') or {}).get('type') != 'Pretrained':
            bare.append(place)
            node['init_cfg'] = _pretrained(folder, place)
    return bare


def write_bases(cfg: Config, folder: Path) -> list[dict[str, Tensor]]:
    """Write a base for each backbone, in the layout of its stock class.

    Parameters that start at a constant are moved off it: at zero they would
    keep gradients from layers.

    Args:
        cfg: The stock config; its backbones get their ``init_cfg``.
        folder: Where to write.

    Returns:
        What was written for each.
    """
    move_pretrained(cfg)
    written = []
    for place, node in find_backbones(cfg).items():
        torch.manual_seed(len(written))
        backbone = build_model(cfg, place, weights=False)
        getattr(backbone, 'init_weights', lambda: None)()
        backbone.requires_grad_(True)
        leave_constants(backbone)
        state = {k: v.clone() for k, v in backbone.state_dict().items()}
        node['init_cfg'] = _pretrained(folder, place)
        torch.save(dict(state_dict=state), node['init_cfg']['checkpoint'])
        written.append(state)
    return written


def _pretrained(folder: Path, place: str) -> dict[str, str]:
    return dict(type='Pretrained', checkpoint=str(folder / f'{place}.pth'))
