"""Averaged copies of a model that share its frozen bases."""

from typing import Any

from mmengine.hooks import EMAHook
from torch import Tensor, nn

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.record import base_records, base_tensors


def share_bases(model: nn.Module, hooks: list[Any]) -> None:
    """Let averaged copies hold, and average, only what trains.

    ``EMAHook`` copies the whole model.  The mean of frozen weights is these
    weights, so the copies use the model's own.  They use the buffers of its
    adapters, too: these say what parameters mean (SaRA's entries that are
    settled, SNELLA's share of zeros), and change at once.  A mean of them,
    as with ``update_buffers=True``, would mean something else.

    Args:
        model: What is trained, without wrappers.
        hooks: The runner's hooks.
    """
    for average in (h.ema_model for h in hooks if isinstance(h, EMAHook)):
        for name, (backbone, record) in base_records(model).items():
            copy = average.module.get_submodule(name)
            shared: dict[str, Tensor] = {
                **base_tensors(backbone, record),
                **_adapter_buffers(backbone),
            }
            for key, tensor in shared.items():
                owner, _, leaf = key.rpartition('.')
                holder = copy.get_submodule(owner)
                if getattr(holder, leaf).device != tensor.device:
                    continue  # an average that is kept elsewhere
                setattr(holder, leaf, tensor)
                full = f'{name}.{key}' if name else key
                average.avg_parameters.pop(full, None)


def _adapter_buffers(backbone: nn.Module) -> dict[str, Tensor]:
    return {
        f'{name}.adapter.{key}' if name else f'adapter.{key}': buffer
        for name, module in adapted_modules(backbone).items()
        for key, buffer in module.adapter.named_buffers()
    }
