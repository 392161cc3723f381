"""Whether adapters and a base agree on how the base is stored.

An adapter that was trained over a base in 4 bits is adapted to the rounding
errors of that base.  Over the same weights in another type it computes
something else, and its shapes do not show that.
"""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmflora.adapters.quantized import Quantization, QuantizedWeight
from mmflora.adapters.quantized_base import linear_weights

from .record import BaseRecord, base_tensors, content_hash


def same_base(
    module: nn.Module, record: BaseRecord, theirs: Mapping[str, Any]
) -> bool:
    """Return whether a backbone stands on the base that adapters belong to.

    With ``allow_other_quantization`` both may be stored differently; then
    the weights before rounding are compared.  Where this model has quantized
    weights that the other kept dense, those values are gone, and the name of
    the source decides.
    """
    if not record.in_place:
        return False
    if theirs['method'].get('quantize') == record.method.get('quantize'):
        return theirs['sha256'] == record.sha256
    base = base_tensors(module, record)
    stored = {key for key in base if isinstance(base[key], QuantizedWeight)}
    rounded = _rounded(module, theirs['method'].get('quantize'))
    if stored <= rounded:
        return content_hash(base, rounded) == theirs['sha256']
    print_log(
        f'The base of {type(module).__name__} is taken for the one that its '
        'adapters belong to by the name of its file alone: quantized, its '
        'content cannot be compared.',
        logger='current',
        level=logging.WARNING,
    )
    return (theirs['source'] or {}) == (record.source or {})


def check_quantization(
    module: nn.Module, record: BaseRecord, theirs: Mapping[str, Any]
) -> None:
    """Refuse adapters over a base that is stored otherwise than theirs was.

    Raises:
        ValueError: If they are, and nothing allows it.
    """
    ours, other = (
        method.get('quantize') for method in (record.method, theirs['method'])
    )
    if ours == other or record.other_quantization:
        return
    setting = 'without `quantize`' if other is None else f'quantize={other}'
    raise ValueError(
        'The adapters of the checkpoint were trained over a base '
        f'{_in_words(other)}; {type(module).__name__} keeps it '
        f'{_in_words(ours)}, for whose errors they were not trained. Build '
        f'the model {setting}, as in training; or, to use them over this '
        'base all the same, set `allow_other_quantization=True` of the '
        'backbone (`--cfg-options '
        'model.backbone.allow_other_quantization=True`), and measure what it '
        'costs.'
    )


def _in_words(options: Mapping[str, Any] | None) -> str:
    quantization = Quantization.of(options)
    if quantization is None:
        return 'in its own type'
    return f'in {quantization.scheme}'


def _rounded(
    module: nn.Module, options: Mapping[str, Any] | None
) -> frozenset[str]:
    """Return the weights that an option would round."""
    quantization = Quantization.of(options)
    if quantization is None:
        return frozenset()
    return frozenset(
        f'{name}.weight' for name in linear_weights(module, quantization)
    )
