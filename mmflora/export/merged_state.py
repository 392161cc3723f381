"""What a merged checkpoint holds: the state dict, and what stands beside."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.adapters import adapted_layers, merge_for_good
from mmflora.adapters.base import AdapterBase
from mmflora.adapters.quantized_base import dequantize_base
from mmflora.checkpoint import base_records
from mmflora.checkpoint.record import RECORD_NAME
from mmflora.files.plain_types import make_plain
from mmflora.version import __version__

DTYPES = {
    'float32': torch.float32,
    'float16': torch.float16,
    'bfloat16': torch.bfloat16,
}


def check_mergeable(model: nn.Module) -> None:
    """Check that every adapter of a model can be merged.

    Raises:
        ValueError: If a method cannot be.
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


def merge_final(model: nn.Module) -> None:
    """Merge every adapter of a model for good, in place.

    A model without adapters, or whose method trains the base's own
    parameters, stays as it is, except that quantized weights become dense.

    Args:
        model: The model; it has no adapter afterwards.

    Raises:
        ValueError: If a method cannot be merged; the model is then as it was.
    """
    check_mergeable(model)
    if adapted_layers(model):
        merge_for_good(model)
    dequantize_base(model)


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
    whole = model.state_dict()
    state = OrderedDict(
        (key, value.detach().contiguous())
        for key, value in whole.items()
        if not key.startswith(records)
    )
    # Versions of the modules: classes that read old files look for them.
    vars(state)['_metadata'] = OrderedDict(
        (name, version)
        for name, version in getattr(whole, '_metadata', {}).items()
        if not f'{name}.'.startswith(records)
    )
    return state


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model's backbone, without its name."""
    own = OrderedDict(
        (key.removeprefix('backbone.'), value)
        for key, value in state.items()
        if key.startswith('backbone.')
    )
    vars(own)['_metadata'] = OrderedDict(
        (name.removeprefix('backbone').removeprefix('.'), version)
        for name, version in getattr(state, '_metadata', {}).items()
        if f'{name}.'.startswith('backbone.')
    )
    return own


def cast_parameters(
    state: dict[str, Tensor], model: nn.Module, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Round parameters to a type; buffers, such as statistics, stay exact.

    One is rounded after the other, in the model too, so that both types of
    the whole model never are in memory together.

    Args:
        state: The state dict, emptied.
        model: Says which keys are parameters; it gets the rounded ones.
        dtype: A floating-point type, ``None`` to change nothing.

    Returns:
        A new state dict.

    Raises:
        ValueError: If a value is too large for the type.
    """
    if dtype is None:
        return state
    parameters = dict(model.named_parameters())
    cast: dict[str, Tensor] = OrderedDict()
    vars(cast).update(vars(state) if isinstance(state, OrderedDict) else {})
    for key in list(state):
        value = state[key]
        if key in parameters and value.is_floating_point():
            rounded = value.to(dtype)
            if not rounded.isfinite().all() and value.isfinite().all():
                raise ValueError(
                    f"'{key}' holds {float(value.abs().max()):.3g}, more "
                    f'than {dtype} can ({torch.finfo(dtype).max:.3g}). Use '
                    '--dtype bfloat16 or float32.'
                )
            parameters[key].data = value = rounded
        cast[key] = value
        del state[key]
    return cast


def plain_meta(
    meta: Mapping[str, Any], model: nn.Module, config: str
) -> dict[str, Any]:
    """Keep what stock tools read, in types that any reader allows."""
    kept = ('dataset_meta', 'CLASSES', 'PALETTE', 'epoch', 'iter', 'seed')
    result = {key: meta[key] for key in kept if key in meta}
    make_plain(result)
    result['cfg'] = config
    result['merged_by'] = f'mmflora {__version__}'
    result['merged_from'] = json.dumps(
        {
            name: dict(
                method=record.method,
                base=record.source,
                base_sha256=record.sha256,
            )
            for name, (_, record) in base_records(model).items()
        },
        default=str,
    )
    return result
