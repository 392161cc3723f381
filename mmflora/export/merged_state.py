"""The state dict of a model after its adapters are merged."""

from typing import Any

import torch
from torch import Tensor, nn

from mmflora.adapters import adapted_layers, merge
from mmflora.adapters.base import AdapterBase
from mmflora.checkpoint import base_records
from mmflora.checkpoint.base_record import RECORD_NAME

DTYPES = {
    'float32': torch.float32,
    'float16': torch.float16,
    'bfloat16': torch.bfloat16,
}


def merge_final(model: nn.Module) -> None:
    """Merge every adapter of a model for good, in place.

    A model without adapters, or whose method trains the base's own
    parameters, stays as it is.

    Args:
        model: The model; it has no adapter afterwards.

    Raises:
        ValueError: If a method cannot be merged; the model is then as it was.
    """
    stuck = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, AdapterBase) and not module.mergeable
    }
    if stuck:
        name, kind = next(iter(stuck.items()))
        module: Any = model.get_submodule(name)
        raise ValueError(
            f"{len(stuck)} adapters cannot be merged, such as '{name}' "
            f'({kind}): {module.why_not_mergeable or "see its method"}. '
            'Keep the adapter checkpoint and run it with mmflora.'
        )
    if adapted_layers(model):
        merge(model)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Merge a model's adapters for good; return the stock model's state.

    Args:
        model: The model, changed in place.

    Returns:
        Key to tensor, without adapters and records.

    Raises:
        ValueError: If a method cannot be merged.
    """
    merge_final(model)
    records = tuple(
        f'{name}.{RECORD_NAME}.' if name else f'{RECORD_NAME}.'
        for name in base_records(model)
    )
    return {
        key: value.detach().contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith(records)
    }


def cast_parameters(
    state: dict[str, Tensor], model: nn.Module, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Round parameters to a type; buffers, such as statistics, stay exact.

    Args:
        state: The state dict.
        model: Says which keys are parameters.
        dtype: A floating-point type, ``None`` to change nothing.

    Returns:
        A new state dict.

    Raises:
        ValueError: If a value is too large for the type.
    """
    if dtype is None:
        return dict(state)
    parameters = dict(model.named_parameters())
    cast = {}
    for key, value in state.items():
        if key in parameters and value.is_floating_point():
            rounded = value.to(dtype)
            if not rounded.isfinite().all() and value.isfinite().all():
                raise ValueError(
                    f"'{key}' holds {float(value.abs().max()):.3g}, more "
                    f'than {dtype} can ({torch.finfo(dtype).max:.3g}). Use '
                    '--dtype bfloat16 or float32.'
                )
            value = rounded
        cast[key] = value
    return cast
