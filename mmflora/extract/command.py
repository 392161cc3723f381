"""Extraction from files to an adapter."""

from collections.abc import Callable
from typing import Any

from mmengine.config import Config

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.convert import from_state
from mmflora.adapters import adapted_layers
from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.config.build import build_model, read_config
from mmflora.config.walk import adapted_backbones
from mmflora.files.training_checkpoints import load_checkpoint
from mmflora.models.peft_options import peft_settings, set_peft

from .full_tuning import LayerEnergy, extract_adapter, rank_for


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
    config = read_config(config)
    checkpoint = load_checkpoint(finetuned)
    _set_base(config, base)
    if budget is not None:
        _set_rank(config, 1)
        layers = adapted_layers(build_model(config)).values()
        rank = rank_for(
            [tuple(layer.base_weight().shape) for layer in layers], budget
        )
        say(f'rank {rank} keeps within {budget} parameters')
    if rank is not None:
        _set_rank(config, rank)
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


def _backbones(config: Config) -> list[Any]:
    found = [node for _, node in adapted_backbones(config)]
    if not found:
        raise ValueError(
            "The config's model has no backbone of mmflora with an adapter. "
            'Give one of configs/flora, or one like it.'
        )
    return found


def _set_base(config: Config, base: str) -> None:
    """Let the config's backbones start from other weights."""
    for node in _backbones(config):
        inner = node.get('backbone')
        holder = node if inner is None else inner
        source = pretrained_cfg(holder.get('init_cfg')) or {}
        holder['init_cfg'] = {
            **source,
            'type': 'Pretrained',
            'checkpoint': base,
        }


def _set_rank(config: Config, rank: int) -> None:
    """Set the rank of all adapters, also where `targets` set another."""
    for node in _backbones(config):
        settings = peft_settings(node)
        adapter = settings.get('adapter') or dict(type='FLoRA')
        set_peft(node, adapter={**adapter, 'rank': rank})
        if isinstance(settings.get('targets'), dict):
            for options in settings['targets'].values():
                options.pop('rank', None)
