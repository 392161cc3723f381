"""Which entries a full fine-tuning has moved most."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from mmflora.adapter_files import AdapterFile
from mmflora.adapters import LotteryTicket, adapted_layers
from mmflora.config.build import build_model, read_config
from mmflora.files.training_checkpoints import load_checkpoint

from .exchange import adapters_alone


@torch.no_grad()
def make_ticket(
    config: str | Config,
    finetuned: str,
    say: Callable[[str], None] = lambda _: None,
) -> AdapterFile:
    """Choose the places of a config's sparse adapters by a full fine-tuning.

    Values are zero: a training that starts from the result (``load_from``)
    starts at the base.  Neck and heads are not in it.

    Args:
        config: A config with ``LotteryTicket`` adapters over the base that
            was fine-tuned, or its path.
        finetuned: The checkpoint of the whole fine-tuned model, in the keys
            of the stock model.
        say: Called with a line after each layer.

    Raises:
        FileNotFoundError: If the checkpoint is missing.
        ValueError: If the config has no such adapters, or the checkpoint is
            of another model, or the base itself.
    """
    cfg = read_config(config)
    state = load_checkpoint(finetuned)['state_dict']
    model = build_model(cfg)
    layers: dict[str, Any] = {
        name: layer
        for name, layer in adapted_layers(model).items()
        if isinstance(layer.adapter, LotteryTicket)
    }
    if not layers:
        raise ValueError(
            'The config has no LotteryTicket adapters. Set '
            "adapter=dict(type='LotteryTicket', density=0.05)."
        )
    moved = {name: _moved(name, one, state) for name, one in layers.items()}
    if not any(sizes.any() for sizes in moved.values()):
        raise ValueError(
            f"'{finetuned}' holds the weights of the base itself: nothing has "
            'moved. Give the checkpoint of a full fine-tuning.'
        )
    for number, (name, layer) in enumerate(layers.items(), start=1):
        sizes = moved[name]
        layer.adapter.calibrate(layer, sizes)
        kept = sizes.flatten()[layer.adapter.places.long()]
        part = float(kept.square().sum() / sizes.square().sum().clamp(1e-300))
        say(
            f'{number}/{len(layers)} {name}: {len(kept)} of {sizes.numel()} '
            f"entries have {part:.1%} of the movement's squared norm"
        )
    return adapters_alone(model, cfg, 'ticket', finetuned)


def _moved(name: str, layer: Any, state: Mapping[str, Tensor]) -> Tensor:
    """Return by how much each entry of a weight has moved, in float64."""
    key, base = f'{name}.{layer.weight_name}', layer.base_weight()
    there = state.get(key)
    if there is None or there.shape != base.shape:
        shape = None if there is None else tuple(there.shape)
        raise ValueError(
            f"The fine-tuned weights do not fit: '{key}' is {shape} there and "
            f'{tuple(base.shape)} in the config. Give the checkpoint of a '
            "full fine-tuning of the same model, with the stock model's keys."
        )
    return (there.double() - base.cpu().double()).abs()
