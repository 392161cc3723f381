"""Averaged copies of a model that share its frozen bases."""

from typing import Any

from mmengine.hooks import EMAHook
from torch import nn

from mmflora.checkpoint.record import base_records, base_tensors


def share_bases(model: nn.Module, hooks: list[Any]) -> None:
    """Let averaged copies hold, and average, only what trains.

    ``EMAHook`` copies the whole model.  The mean of frozen weights is these
    weights, so the copies use the model's own.

    Args:
        model: What is trained, without wrappers.
        hooks: The runner's hooks.
    """
    for average in (h.ema_model for h in hooks if isinstance(h, EMAHook)):
        for name, (backbone, record) in base_records(model).items():
            copy = average.module.get_submodule(name)
            copies = base_tensors(copy, record)
            for key, parameter in base_tensors(backbone, record).items():
                if copies[key].device != parameter.device:
                    continue  # an average that is kept elsewhere
                owner, _, leaf = key.rpartition('.')
                setattr(copy.get_submodule(owner), leaf, parameter)
                full = f'{name}.{key}' if name else key
                average.avg_parameters.pop(full, None)
