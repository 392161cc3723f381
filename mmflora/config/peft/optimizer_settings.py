"""The optimizer's settings of any config, for a frozen base."""

from collections.abc import Iterable
from typing import Any

from mmengine.config import Config

from mmflora.engine.multipliers import ALLOWED

from ..walk import find_dicts
from .changes import Change, name_of

CONSTRUCTOR = 'mmflora.PEFTOptimWrapperConstructor'
PLACE = 'optim_wrapper.paramwise_cfg'
_DROPPED = {
    'bypass_duplicate': 'every parameter enters once in any case',
    'num_layers': 'mmflora reads it from the backbone',
    'decay_type': 'mmflora reads the layers from the backbone',
    'force_default_settings': 'mmflora has no such setting',
}
_DECAY_RATES = ('decay_rate', 'layer_decay_rate')
_ADAPTERS_RATE = 'meant for weights that are frozen now; adapters are new '


def carry_over(cfg: Config, frozen: list[str], tuned: bool) -> list[Change]:
    """Exchange the constructor; keep what the config says of multipliers.

    Args:
        cfg: The config; it is changed.
        frozen: The frozen parts by their modules' paths, but for those whose
            own weights train: multipliers of pretrained weights are theirs.
        tuned: Whether there are such parts.
    """
    node: Any = cfg.get('optim_wrapper')
    if not isinstance(node, dict):
        return []
    before = node.get('constructor')
    if before == CONSTRUCTOR:
        return []
    changes = [
        Change(
            'optim_wrapper.constructor',
            before and name_of(before),
            CONSTRUCTOR,
        )
    ]
    node['constructor'] = CONSTRUCTOR
    paramwise = node.get('paramwise_cfg')
    if paramwise:
        changes += _multipliers(paramwise, frozen, tuned)
    return changes


def _multipliers(
    paramwise: Any, frozen: list[str], tuned: bool
) -> list[Change]:
    changes = []
    for name in _DECAY_RATES:
        if name in paramwise:
            rate = paramwise.pop(name)
            if tuned:
                paramwise['layer_decay'] = rate
                changes.append(
                    Change(
                        f'{PLACE}.{name}',
                        rate,
                        None,
                        f'{PLACE}.layer_decay is {rate!r} now',
                    )
                )
            else:
                why = _ADAPTERS_RATE + (
                    f'(to have it, set {PLACE}.layer_decay={rate!r})'
                )
                changes.append(Change(f'{PLACE}.{name}', rate, None, why))
    for name in list(paramwise):
        if name not in ALLOWED:
            why = _DROPPED.get(name, 'mmflora has no such setting')
            value = paramwise.pop(name)
            changes.append(Change(f'{PLACE}.{name}', value, None, why))
    custom = paramwise.get('custom_keys')
    if custom:
        # Keys of the zoo's configs are part of no name of some models.
        paramwise['allow_unmatched'] = True
        changes += _custom_keys(custom, frozen)
    return changes


def _custom_keys(custom: Any, frozen: list[str]) -> list[Change]:
    changes = []
    slowed = {}
    for key, entry in list(custom.items()):
        for name in [n for n in entry if n not in ('lr_mult', 'decay_mult')]:
            place = f'{PLACE}.custom_keys.{key}.{name}'
            why = "neither MMEngine's constructor nor mmflora's reads it"
            changes.append(Change(place, entry.pop(name), None, why))
        if _means(key, frozen) and 'lr_mult' in entry:
            slowed[key] = entry.pop('lr_mult')
            if entry.get('decay_mult', 1.0) == 1.0:
                del custom[key]
    if any(value != 1.0 for value in slowed.values()):
        first, *others = slowed
        more = f' and {len(others)} more keys of it' if others else ''
        why = _ADAPTERS_RATE + (
            'and train at the full rate (to have it lower, set '
            f'{PLACE}.adapter_lr_mult)'
        )
        place = f'{PLACE}.custom_keys.{first}{more}'
        rate = f'lr_mult={slowed[first]!r}'
        changes.append(Change(place, rate, None, why))
    return changes


def _means(key: str, parts: Iterable[str]) -> bool:
    """Return whether a custom key names a frozen part or a place in it."""
    for part in parts:
        names = part.split('.')
        ends = ['.'.join(names[start:]) for start in range(len(names))]
        if any(key == end or key.startswith(f'{end}.') for end in ends):
            return True
    return False


def leave_amp(cfg: Config) -> tuple[str | None, list[Change]]:
    """Take mixed precision out of the optimizer wrapper.

    Returns:
        What the frozen backbone is to compute in instead, and the changes.
    """
    wrapper: Any = cfg.get('optim_wrapper') or {}
    if name_of(wrapper.get('type', '')) != 'AmpOptimWrapper':
        return None, []
    before, wrapper['type'] = wrapper['type'], 'OptimWrapper'
    for name in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(name, None)
    # mmcv's deformable convolutions know float32 and float16 alone.
    deforms = any('dcn' in node for _, node in find_dicts(cfg.model, 'model'))
    dtype = None if deforms else 'bfloat16'
    why = f'{dtype or "no mixed precision"} in the backbone, float32 in heads'
    return dtype, [Change('optim_wrapper.type', before, 'OptimWrapper', why)]
