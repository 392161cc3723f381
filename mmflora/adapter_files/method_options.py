"""Which method a layer of an adapter's file has, and with which settings."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmflora.adapters import Tuning
from mmflora.adapters.settings import check_type, settings_for
from mmflora.adapters.stored import Stored
from mmflora.registry import ADAPTERS

from .adapter import AdapterFile


class StoredMethod(NamedTuple):
    """A method with its settings, as a file's description has them.

    Attributes:
        kind: Its registered class.
        settings: Without ``type``.
    """

    kind: Any
    settings: dict[str, Any]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> 'StoredMethod':
        """Look a method up.

        Raises:
            TypeError: If they name no type.
            ValueError: If there is no such method.
        """
        check_type(options)
        settings = {k: v for k, v in options.items() if k != 'type'}
        return cls(ADAPTERS.get(options['type']), settings)

    @property
    def reader(self) -> type[Stored]:
        """The class that reads its tensors."""
        reader: type[Stored] = self.kind.reader(self.settings)
        return reader

    @property
    def name(self) -> str:
        """Its name; for those of peft theirs beside it."""
        return self.reader.label(self.settings)

    @property
    def tunes(self) -> bool:
        """Whether it trains parameters that the base already has."""
        return issubclass(self.kind, Tuning)


def layer_options(
    adapter: AdapterFile, layer: str, tuned: bool = False
) -> dict[str, Any]:
    """Return the method's settings for a layer, those of ``targets`` in it.

    Args:
        adapter: The adapter.
        layer: The layer's name in the model.
        tuned: Whether the method is the one that trains parameters of the
            layer itself, or the one that adapts it.

    Returns:
        With ``type``; empty for what is in no backbone.
    """
    for name, backbone in adapter.config['backbones'].items():
        prefix = f'{name}.' if name else ''
        if not layer.startswith(prefix):
            continue
        common = common_options(backbone)
        targets = backbone['method'].get('targets')
        for pattern, own in (
            targets.items() if isinstance(targets, dict) else ()
        ):
            options = settings_for(common, own)
            if re.fullmatch(pattern, layer.removeprefix(prefix)) and (
                StoredMethod.of(options).tunes == tuned
            ):
                return options
        return common
    return {}


def common_options(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a backbone's method, ``targets`` aside."""
    return dict(backbone['method'].get('adapter') or {})


def tuned_keys(adapter: AdapterFile) -> list[str]:
    """Return the keys of the base's parameters that were trained."""
    return [
        f'{name}.{key}' if name else key
        for name, backbone in adapter.config['backbones'].items()
        for key in backbone.get('tuned') or ()
    ]
