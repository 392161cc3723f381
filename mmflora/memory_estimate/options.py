"""What can be switched on or off to change the memory of a config's step."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts
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


def options(cfg: Config) -> list[Option]:
    """Return the config as it is, and what its backbone offers beside it.

    Args:
        cfg: The config; the modules of its toolkit must be registered.
    """
    found = [AS_IT_IS]
    place = backbone_place(cfg)
    if place is None:
        return found
    key, backbone = place
    documented = _arguments(backbone)
    settings = peft_settings(backbone)
    if 'peft' in documented:
        documented |= {*PEFT_NAMES}
    for argument, values in _CHOICES.items():
        if argument not in documented:
            continue
        now = {**backbone, **settings}.get(argument) or False
        for value in values:
            if value == now or not _offered(backbone, argument, value):
                continue
            name = _name(argument, value)
            changes = {f'{key}.{argument}': value}
            if argument == 'lean' and backbone.get('with_cp') is True:
                # Where all is computed again, nothing is left to rebuild.
                name = f'{name} with_cp=False'
                changes[f'{key}.with_cp'] = False
            found.append(Option(name, changes))
    return found


def _name(argument: str, value: Any) -> str:
    """Return a setting as ``--cfg-options`` takes it."""
    if not isinstance(value, Mapping):
        return f'{argument}={value}'
    return ' '.join(f'{argument}.{key}={item}' for key, item in value.items())


def backbone_place(cfg: Config) -> tuple[str, Mapping[str, Any]] | None:
    """Return the place of the model's backbone in its config, and itself."""
    for key, module in find_dicts(cfg.get('model'), 'model'):
        if key.endswith('.backbone') and 'type' in module:
            return key, module
    return None


def _arguments(backbone: Mapping[str, Any]) -> set[str]:
    """Return the arguments that a backbone takes, from its bases too."""
    builder = MODELS.get(backbone['type'])
    if builder is None:
        return set()
    if not inspect.isclass(builder):
        return set(inspect.signature(builder).parameters)
    return {
        name
        for kind in builder.__mro__
        if '__init__' in vars(kind)
        for name in inspect.signature(vars(kind)['__init__']).parameters
    }


def _offered(backbone: Mapping[str, Any], argument: str, value: Any) -> bool:
    if argument == 'lean':  # without adapters nothing is kept for them
        return peft_settings(backbone).get('adapter', ...) is not None
    if argument != 'with_cp' or isinstance(value, bool):
        return True
    builder = MODELS.get(backbone['type'])  # it says what else it takes
    return value in getattr(builder, 'with_cp_values', ())
