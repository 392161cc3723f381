"""The optimizer's settings of any config, for a frozen base."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config

from mmflora.engine.multipliers import ALLOWED

from .changes import Change

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


def carry_over(
    cfg: Config, parts: Iterable[str], trains_base: bool
) -> list[Change]:
    """Exchange the constructor; keep what the config says of multipliers.

    Args:
        cfg: The config; it is changed.
        parts: The frozen parts, by their modules' names in the model.
        trains_base: Whether the method trains the base's own weights, for
            which multipliers of a pretrained part are meant.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, Mapping):
        return []
    node: Any = wrapper
    before = node.get('constructor')
    if _name(before) == CONSTRUCTOR:
        return []
    changes = [Change('optim_wrapper.constructor', before, CONSTRUCTOR)]
    node['constructor'] = CONSTRUCTOR
    paramwise = node.get('paramwise_cfg')
    if paramwise:
        changes += _multipliers(paramwise, list(parts), trains_base)
    return changes


def _multipliers(
    paramwise: Any, parts: list[str], trains_base: bool
) -> list[Change]:
    changes = []
    for name in _DECAY_RATES:
        if name in paramwise:
            rate = paramwise.pop(name)
            if trains_base:
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
        changes += _custom_keys(custom, parts, trains_base)
    return changes


def _custom_keys(
    custom: Any, parts: list[str], trains_base: bool
) -> list[Change]:
    changes = []
    slowed = {}
    for key, entry in list(custom.items()):
        for name in [n for n in entry if n not in ('lr_mult', 'decay_mult')]:
            place = f'{PLACE}.custom_keys.{key}.{name}'
            why = "neither MMEngine's constructor nor mmflora's reads it"
            changes.append(Change(place, entry.pop(name), None, why))
        if not trains_base and _means(key, parts) and 'lr_mult' in entry:
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
        What the frozen part is to compute in instead, if anything.
    """
    wrapper: Any = cfg.get('optim_wrapper') or {}
    before = wrapper.get('type')
    if _name(before) != 'AmpOptimWrapper':
        return None, []
    wrapper['type'] = 'OptimWrapper'
    dropped = [name for name in ('loss_scale', 'dtype') if name in wrapper]
    for name in dropped:
        del wrapper[name]
    why = 'heads compute in float32, the backbone in bfloat16'
    return 'bfloat16', [
        Change('optim_wrapper.type', before, 'OptimWrapper', why)
    ]


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, '__name__', '')
