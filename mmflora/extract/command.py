"""Extraction from files to an adapter."""

import copy
from collections.abc import Callable

from mmengine.config import Config
from torch import nn

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.convert import from_state
from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.record import base_records
from mmflora.config.build import build_model, read_config
from mmflora.config.walk import frozen_parts
from mmflora.files.training_checkpoints import load_checkpoint

from .full_tuning import LayerEnergy, extract_adapter, flora_layers, rank_for


def extract(
    config: str | Config,
    base: str,
    finetuned: str,
    rank: int | None = None,
    budget: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[AdapterFile, list[LayerEnergy]]:
    """Make the FLoRA adapter nearest to a full fine-tuning.

    Args:
        config: A config whose backbone has FLoRA adapters, or its path.
        base: The weights that the fine-tuning started from, as
            ``init_cfg.checkpoint`` names them; a ``prefix`` of the config
            stays.
        finetuned: The checkpoint of the whole fine-tuned model.
        rank: The rank of the channel modes; by default the config's.
        budget: Instead of a rank, the most parameters of all adapters.
        say: Called with a line after each layer.

    Returns:
        The adapter, and a row for each adapted layer.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the files do not fit the config's model.
    """
    config = copy.deepcopy(read_config(config))
    checkpoint = load_checkpoint(finetuned)
    _set_base(config, base)
    if rank is not None or budget is not None:
        plan = build_model(config, weights=False, device='meta')
        adapters = flora_layers(plan).values()
        if budget is not None:
            rank = rank_for(list(adapters), budget)
            say(f'rank {rank} keeps within {budget} parameters')
        _set_rank(config, plan, rank)
    model = build_model(config)
    rows = extract_adapter(model, checkpoint['state_dict'], say)
    meta = dict(checkpoint.get('meta') or {})
    described = dict(
        cfg=config.pretty_text,
        dataset_meta=meta.get('dataset_meta') or {},
    )
    with adapter_state_dict():
        adapter = from_state(model.state_dict(), described, {}, finetuned)
    return adapter, rows


def _set_base(config: Config, base: str) -> None:
    """Let the config's backbones start from other weights."""
    holders = [part.base_holder for part in frozen_parts(config)]
    if not holders:
        raise ValueError(
            "The config's model has no backbone of mmflora with an adapter. "
            'Give one of configs/flora, or one like it.'
        )
    for holder in holders:
        source = pretrained_cfg(holder.get('init_cfg')) or {}
        holder['init_cfg'] = {
            **source,
            'type': 'Pretrained',
            'checkpoint': base,
        }


def _set_rank(config: Config, plan: nn.Module, rank: int | None) -> None:
    """Set the rank of all adapters, also where `targets` set another.

    All other settings are those in effect: where the config leaves them out,
    the backbone's class may have defaults of its own, such as a scale.
    """
    in_effect = {
        name: record.method['adapter']
        for name, (_, record) in base_records(plan).items()
    }
    for part in frozen_parts(config):
        settings = part.settings
        adapter = in_effect.get(part.module.removeprefix('model.'))
        adapter = adapter or settings.get('adapter')
        if not adapter:
            continue
        part.change(adapter={**adapter, 'rank': rank})
        targets = part.settings.get('targets')
        for options in targets.values() if isinstance(targets, dict) else ():
            options.pop('rank', None)
