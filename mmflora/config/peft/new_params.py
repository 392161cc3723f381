"""What a backbone's weights lack, found out and declared.

A base must fit in full.  The published weights of a Swin lack the norms of
mmdet's outputs, those of a ResNet the offsets of deformable convolutions.
Such parameters start new and train; a config names them.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from math import prod
from typing import Any

from mmengine.logging import MMLogger
from torch import nn

from mmflora.checkpoint.base_weights import account, pretrained_cfg
from mmflora.checkpoint.keys import KeyReport, Shapes, state_shapes

from .base_fit import LEAST_SHARE, patterns_of
from .changes import Change

# Parameters of a backbone that is built once more to see what fits.
_LARGEST = 2 * 10**9
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError)
# Share of the keys from which on layers, not single weights, are lacking.
_LAYERS_SHARE = 0.05


def declare_new(place: str, node: Any, stock: nn.Module) -> list[Change]:
    """Declare in a frozen backbone's ``peft`` what its weights lack.

    Args:
        place: Where the backbone stands.
        node: Its dict, of ``mmflora.PEFTBackbone``; it is changed.
        stock: The backbone that it adapts, on the meta device.

    Raises:
        ValueError: If the weights are those of another model.
    """
    source = pretrained_cfg(node['backbone'].get('init_cfg'))
    if source is None:
        return []
    where = f'{place}.backbone.init_cfg.checkpoint'
    name = source['checkpoint']
    shapes = state_shapes(stock)
    if sum(map(prod, shapes.values())) > _LARGEST:
        return [_unknown(where, name, 'the backbone is too large to try it')]
    peft = node['peft']
    declared = (
        _patterns(getattr(stock, 'new_params', ()), peft.get('new_params')),
        _patterns(getattr(stock, 'unused_keys', ()), peft.get('unused_keys')),
    )
    try:
        with _quiet():
            report = account(stock.to_empty(device='cpu'), source, *declared)
    except _UNREADABLE as error:
        return [_unknown(where, name, str(error).partition('\n')[0])]
    _check_model(report, shapes, stock, name)
    changes = []
    for setting, keys, why in (
        ('new_params', _lacking(report), 'new: the weights lack them'),
        ('unused_keys', report.unexpected, 'of the weights, without use here'),
    ):
        if keys:
            patterns = patterns_of(keys, shapes)
            peft[setting] = [*_patterns(peft.get(setting)), *patterns]
            changes.append(
                Change(f'{place}.peft.{setting}', None, patterns, why)
            )
    return changes


def _lacking(report: KeyReport) -> list[str]:
    return [*report.missing, *report.mismatched]


def _check_model(
    report: KeyReport, shapes: Shapes, stock: nn.Module, source: str
) -> None:
    """Refuse weights of another model, or of one of another depth.

    Raises:
        ValueError: If most of the values do not fit, or if the file has or
            lacks layers of a kind that both have.
    """
    lacking = set(_lacking(report))
    total = sum(map(prod, shapes.values()))
    fits = sum(prod(shapes[key]) for key in shapes if key not in lacking)
    both = {_numberless(key) for key in shapes if key not in lacking}
    # Plain transformers differ in width where they differ in depth, and may
    # use the first layers alone (the image encoder of SAN).
    cuts = hasattr(stock, 'pos_embed') and hasattr(stock, 'layers')
    other_depth = any(
        len([key for key in keys if _numberless(key) in both])
        > _LAYERS_SHARE * len(shapes)
        for keys in (report.missing, [] if cuts else report.unexpected)
    )
    if fits >= LEAST_SHARE * total and not other_depth:
        return
    raise ValueError(
        f"The base weights '{source}' are those of another model than the "
        f"config's {type(stock).__name__}:\n{report}\nName the right file. "
        'Where the file is right, name these keys in the method: '
        '"dict(adapter=dict(...), new_params=[...], unused_keys=[...])".'
    )


def _numberless(key: str) -> str:
    return re.sub(r'\.\d+(?=\.)', '.#', key)


def _unknown(place: str, source: str, reason: str) -> Change:
    why = f'not read, so that what it lacks is not known yet: {reason}'
    return Change(place, source, source, why)


def _patterns(*settings: Any) -> list[str]:
    found: list[str] = []
    for value in settings:
        found += [value] if isinstance(value, str) else value or ()
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what MMEngine says of weights that do not fit."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('CRITICAL')
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
