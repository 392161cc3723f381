"""Multipliers of learning rate and weight decay, by role and by name."""

import difflib
import logging
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmflora.adapters import is_norm
from mmflora.checkpoint.roles import NamedParameter, Role

_PREFIX = {
    Role.CORE: 'core',
    Role.ADAPTER: 'adapter',
    Role.TUNED: 'tuned',
    Role.NEW: 'head',
    Role.HEAD: 'head',
}
_KINDS = ('lr_mult', 'decay_mult')
ALLOWED = (
    *(
        f'{prefix}_{kind}'
        for prefix in ('adapter', 'core', 'tuned', 'head')
        for kind in _KINDS
    ),
    'norm_decay_mult',
    'bias_decay_mult',
    'bias_lr_mult',
    'dwconv_decay_mult',
    'dcn_offset_lr_mult',
    'flat_decay_mult',
    'layer_decay',
    'custom_keys',
    'allow_unmatched',
)
_NO_FACTORS = ('layer_decay', 'custom_keys', 'allow_unmatched')


class Multipliers:
    """The entries of ``paramwise_cfg``, checked.

    Args:
        options: What :class:`PEFTOptimWrapperConstructor` documents.

    Raises:
        TypeError: If a multiplier is no number, or a custom key no dict.
        ValueError: If an entry is unknown, or a multiplier is negative or not
            finite.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        place = '`paramwise_cfg`'
        _check_names(options, ALLOWED, place)
        self.options = {
            name: value
            for name, value in options.items()
            if name not in _NO_FACTORS
        }
        _check_values(self.options, place)
        self.allow_unmatched = bool(options.get('allow_unmatched'))
        self.custom: Mapping[str, Any] = options.get('custom_keys') or {}
        for key, entry in self.custom.items():
            where = f'{place}: `custom_keys` {key!r}'
            if not isinstance(entry, Mapping):
                raise TypeError(
                    f'{where} is a dict, such as dict(lr_mult=0.1), got '
                    f'{entry!r}.'
                )
            _check_names(entry, _KINDS, where)
            _check_values(entry, where)
        # MMEngine's order: alphabetical, the longest first.
        self._keys = sorted(sorted(self.custom), key=len, reverse=True)
        self._used: set[str] = set()

    def of(self, item: NamedParameter) -> tuple[float, float]:
        """Return multipliers of learning rate and weight decay."""
        usual = 1.0 if item.decays else 0.0
        for key in self._keys:
            if key in item.name:
                self._used.add(key)
                entry = self.custom[key]
                return entry.get('lr_mult', 1.0), entry.get(
                    'decay_mult', usual
                )
        lr_mult = self._of_role(item.role, 'lr_mult')
        decay_mult = usual and self._of_role(item.role, 'decay_mult')
        if item.role in (Role.CORE, Role.ADAPTER):
            return lr_mult, decay_mult
        kinds = _kinds_of(item)
        if 'dcn_offset' in kinds:
            lr_mult *= self._get('dcn_offset_lr_mult')
        elif 'bias' in kinds:
            lr_mult *= self._get('bias_lr_mult')
        for kind in kinds:
            if f'{kind}_decay_mult' in self.options:
                decay_mult *= self._get(f'{kind}_decay_mult')
                break
        return lr_mult, decay_mult

    def check_used(self, items: Iterable[NamedParameter]) -> None:
        """Check, once all parameters were asked for, what had no effect.

        Args:
            items: All parameters of the model, frozen ones too.

        Raises:
            ValueError: If a custom key is part of no parameter's name.
        """
        names = [item.name for item in items]
        for key in () if self.allow_unmatched else self.custom:
            if not any(key in name for name in names):
                near = difflib.get_close_matches(key, _parts(names), n=3)
                raise ValueError(
                    f'`paramwise_cfg`: `custom_keys` {key!r} is part of no '
                    "parameter's name, so that it would do nothing. "
                    f'Near it are {", ".join(near) or names[-1]}. Correct '
                    'it, or leave it out.'
                )
        idle = [
            f'{key}={value!r}'
            for key, value in {**self.options, **self.custom}.items()
            if key not in self._used and value != 1.0
        ]
        if idle:
            print_log(
                '`paramwise_cfg`: no parameter that trains is changed by '
                f'{", ".join(idle)}.',
                logger='current',
                level=logging.WARNING,
            )

    def _of_role(self, role: Role, kind: str) -> float:
        name = f'{_PREFIX[role]}_{kind}'
        if role is Role.CORE and name not in self.options:
            name = f'adapter_{kind}'
        return self._get(name)

    def _get(self, name: str) -> float:
        self._used.add(name)
        return self.options.get(name, 1.0)


def _kinds_of(item: NamedParameter) -> tuple[str, ...]:
    """Return what MMEngine's multipliers call a parameter, first counts."""
    module = item.module
    flat = item.parameter.dim() == 1
    if is_norm(module):
        return ('norm', 'flat') if flat else ('norm',)
    if '.conv_offset.' in item.name:
        return ('dcn_offset',)
    depthwise = (
        isinstance(module, nn.Conv2d) and module.in_channels == module.groups
    )
    kinds = {
        'bias': flat and item.name.endswith('bias'),
        'dwconv': depthwise,
        'flat': flat,
    }
    return tuple(kind for kind, holds in kinds.items() if holds)


def _check_names(
    given: Iterable[str], allowed: tuple[str, ...], place: str
) -> None:
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, n=1)
            hint = f' Did you mean {near[0]!r}?' if near else ''
            raise ValueError(
                f'{place} has an unknown entry {name!r}.{hint} Allowed are '
                f'{", ".join(allowed)}.'
            )


def _check_values(values: Mapping[str, Any], place: str) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(
                f'{place}: `{name}` is a factor, such as 0.1, got '
                f'{name}={value!r}.'
            )
        if not 0 <= float(value) < math.inf:
            raise ValueError(
                f'{place}: `{name}` is a finite factor of at least 0, got '
                f'{name}={value!r}.'
            )


def _parts(names: Iterable[str]) -> list[str]:
    """Return the names, their beginnings and their segments, each once."""
    found: dict[str, None] = {}
    for name in names:
        segments = name.split('.')
        for end in range(1, len(segments) + 1):
            found['.'.join(segments[:end])] = None
        found.update(dict.fromkeys(segments))
    return list(found)
