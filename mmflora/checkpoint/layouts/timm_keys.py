"""Published weights for models of timm, converted as timm does it.

A layout that timm's filter of the family does not know is first renamed to one
that it does.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..keys import state_shapes
from . import dinov2_keys, dinov3_keys, sam_keys
from .convnext_keys import convnext_to_timm


def as_timm_reads(
    model: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename weights to keys that timm's filter of the family knows.

    Raises:
        ValueError: If a file holds what the model cannot compute.
    """
    names = {kind.__name__ for kind in type(model).__mro__}
    if 'ConvNeXt' in names:
        return convnext_to_timm(state, state_shapes(model))
    if names & set(dinov2_keys.CLASSES):
        return dinov2_keys.dinov2_to_timm(state, model)
    if names & set(dinov3_keys.CLASSES):
        return dinov3_keys.dinov3_to_timm(state, model)
    return dict(state)


def to_timm(
    model: nn.Module, state: Mapping[str, Tensor], dropped: Iterable[str]
) -> dict[str, Tensor]:
    """Rename and resize weights by the filter of a model's family in timm.

    Args:
        model: The model, perhaps without its last parts.
        state: Weights in any layout that timm reads.
        dropped: Keys of the whole model that this one lacks.

    Returns:
        The weights under timm's keys; those of other architectures, which
        the filter cannot take, stay as they are, for the caller to report.
    """
    kind = type(model).__bases__[-1]  # behind what was mixed into it
    filter_fn: Any = getattr(
        sys.modules[kind.__module__], 'checkpoint_filter_fn', None
    )
    gone = _missing_parts(model, dropped)
    kept = {
        key: value
        for key, value in state.items()
        if not f'{key}.'.startswith(gone)
    }
    if filter_fn is None:
        return kept
    try:
        named = dict(filter_fn(dict(kept), model))
    except (AttributeError, KeyError, RuntimeError, ValueError):
        return kept
    if kind.__name__ in sam_keys.CLASSES:
        return sam_keys.with_sam_positions(named, state_shapes(model))
    return named


def _missing_parts(
    model: nn.Module, dropped: Iterable[str]
) -> tuple[str, ...]:
    """Return the largest parts that a model lacks, such as ``stages.3.``."""
    own = list(model.state_dict())
    parts = set()
    for key in dropped:
        names = key.split('.')
        fronts = ('.'.join(names[:i]) + '.' for i in range(1, len(names) + 1))
        parts.add(
            next(
                front
                for front in fronts
                if not any(f'{name}.'.startswith(front) for name in own)
            )
        )
    return tuple(parts)
