"""What can be switched on or off to change the memory of a config's step."""

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts, frozen_parts
from mmflora.models.peft_options import PEFT_NAMES, peft_settings
from mmflora.registry import MODELS


@dataclass(frozen=True)
class Option:
    """A change of a config.

    Attributes:
        name: What to call it in a table.
        settings: Changed keys of the config with their values, as
            ``--cfg-options`` takes them; none: the config as it is.
    """

    name: str
    settings: Mapping[str, Any]

    def apply(self, cfg: Config) -> Config:
        """Return a changed copy of a config."""
        changed = copy.deepcopy(cfg)
        changed.merge_from_dict(dict(self.settings))
        return changed


AS_IT_IS = Option('as configured', {})

# What each argument of a backbone may be set to, for memory.  Where there are
# several values for one argument, each is an option of its own.
_CHOICES: dict[str, tuple[Any, ...]] = {
    'lean': (True,),
    'with_cp': (False, 'mlp', True),
    'autocast': ('bfloat16',),
    'dtype': ('bfloat16',),
    'quantize': (dict(bits=8), dict(bits=4)),
}

# Those of a backbone within `PEFTBackbone`; the rest stands there.
_OF_ADAPTED = ('with_cp', 'dtype')

# Those that are settings of every frozen part.
_PART_CHOICES = ('lean', 'autocast', 'quantize')


def options(cfg: Config) -> list[Option]:
    """Return the config as it is, and what its frozen parts offer beside it.

    Args:
        cfg: The config; the modules of its toolkit must be registered.
    """
    found = [AS_IT_IS]
    for key, backbone in find_dicts(cfg.get('model'), 'model'):
        if key.endswith('.backbone') and 'type' in backbone:
            found += _beside(key, backbone)
            inner = backbone.get('backbone')
            if isinstance(inner, Mapping) and 'type' in inner:
                found += _beside(f'{key}.backbone', inner, _OF_ADAPTED)
            break
    return [*found, *_of_parts(cfg)]


def _of_parts(cfg: Config) -> Iterator[Option]:
    """Yield the options of a model's frozen parts, set for all of them."""
    parts = [part for part in frozen_parts(cfg) if part.path]
    for argument in _PART_CHOICES if parts else ():
        chosen = [
            part
            for part in parts
            if (argument != 'autocast' or part.casts)
            and (argument != 'lean' or part.settings.get('adapter'))
        ]
        for value in _CHOICES[argument]:
            changes = {
                f'{part.place}.{argument}': value
                for part in chosen
                if part.settings.get(argument) != value
            }
            if changes:
                yield Option(_name(argument, value), changes)


def _beside(
    key: str,
    backbone: Mapping[str, Any],
    chosen: Collection[str] = tuple(_CHOICES),
) -> Iterator[Option]:
    """Yield the options of the backbone that stands at a place."""
    settings = peft_settings(backbone)
    now = {**backbone, **settings}
    builder = MODELS.get(backbone['type'])
    arguments = _arguments(builder) if builder else set()
    place, inner = key, backbone
    if isinstance(backbone.get('backbone'), Mapping):
        place, inner = f'{key}.backbone', backbone['backbone']
    for argument, values in _CHOICES.items():
        if argument not in chosen:
            continue
        # Without adapters nothing is kept for them.
        vain = argument == 'lean' and settings.get('adapter', ...) is None
        if vain or argument not in arguments:
            continue
        for value in values:
            # A backbone says what else its `with_cp` takes.
            known = value != 'mlp' or value in getattr(
                builder, 'with_cp_values', ()
            )
            if not known or value == (now.get(argument) or False):
                continue
            name = _name(argument, value)
            changes = {f'{key}.{argument}': value}
            if argument == 'lean' and inner.get('with_cp') is True:
                # With full recomputation there is nothing left to rebuild.
                name = f'{name} with_cp=False'
                changes[f'{place}.with_cp'] = False
            yield Option(name, changes)


def _name(argument: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f'{argument}.bits={value["bits"]}'
    return f'{argument}={value}'


def _arguments(builder: Any) -> set[str]:
    """Return the arguments that a backbone takes, from its bases too."""
    kinds = inspect.getmro(builder) if inspect.isclass(builder) else [builder]
    found: set[str] = set()
    for kind in kinds:
        if not inspect.isclass(kind) or '__init__' in vars(kind):
            found |= set(inspect.signature(kind).parameters)
    return found | {*PEFT_NAMES} if 'peft' in found else found
