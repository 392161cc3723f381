"""Another method for a config whose parts are frozen already."""

from typing import Any

from mmengine.config import Config

from ..walk import FrozenPart
from .changes import Change, name_of
from .named_methods import Method

# Patterns, which belong to the method; what else `peft` holds stays.
_PATTERNS: dict[str, Any] = {'targets': None, 'exclude': ()}


def exchange_method(
    cfg: Config, part: FrozenPart, method: Method
) -> list[Change]:
    """Give a frozen part of a config another method.

    Args:
        cfg: The config; it is changed.
        part: The part.
        method: The method; of a named one the file's own patterns are used
            where the part has a class of that family.
    """
    before = part.settings
    if all(before.get(k) == v for k, v in method.peft.items()):
        adapter = before['adapter']
        return [Change(f'{part.place}.adapter', adapter, adapter, 'stays')]
    stale = {
        name: default
        for name, default in _PATTERNS.items()
        if name not in method.peft and before.get(name)
    }
    part.change(**stale, **method.peft)
    changes = [
        Change(
            f'{part.place}.adapter',
            before.get('adapter'),
            method.peft['adapter'],
            'frozen already; its method alone is exchanged',
        )
    ]
    kind = name_of(part.node['type'])
    # A class that has a method where none is named.
    plain = kind.replace('mmflora.FLoRA', 'mmflora.PEFT')
    if plain != kind:
        part.node['type'] = plain
        changes.append(Change(f'{part.owner}.type', kind, plain))
    return changes
