"""Walks through configs: every dict, and the frozen parts."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmflora.models.peft_options import (
    part_settings,
    peft_settings,
    set_part,
    set_peft,
)
from mmflora.registry import MODELS


def find_dicts(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every dict in a config, with its place, parents first."""
    if isinstance(node, Mapping):
        yield where, node
        for key, value in node.items():
            yield from find_dicts(value, f'{where}.{key}')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from find_dicts(value, f'{where}.{index}')


@dataclass(frozen=True)
class FrozenPart:
    """A frozen part in a config: an adapted backbone, or a part of a model.

    Attributes:
        place: Where its settings stand, as ``--cfg-options`` reaches them:
            ``'model.backbone'``, or ``'model.parts.encoder'``.
        module: The place of the module that it becomes.
        owner: The place of what mmflora builds: the backbone, or the model
            that the part belongs to.
        node: The dict at the owner's place.
        path: The part's path in the model; ``''`` for a backbone.
    """

    place: str
    module: str
    owner: str
    node: Any
    path: str = ''

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that :class:`PEFTOptions` takes."""
        if self.path:
            return part_settings(self.node['parts'])[self.path]
        return peft_settings(self.node)

    def change(self, **settings: Any) -> None:
        """Change some of the settings, in the config."""
        if self.path:
            set_part(self.node['parts'], self.path, **settings)
        else:
            set_peft(self.node, **settings)

    @property
    def casts(self) -> bool:
        """Whether it may compute under autocast, with float32 outputs.

        Backbones may; heads and encoders have operators that may not, and
        are not entered by their ``forward``.
        """
        return not self.path or self.path.split('.')[-1] == 'backbone'

    @property
    def base_holder(self) -> Any:
        """The dict whose ``init_cfg`` names the base."""
        inner = None if self.path else self.node.get('backbone')
        return self.node if inner is None else inner


def frozen_parts(cfg: Mapping[str, Any]) -> Iterator[FrozenPart]:
    """Yield the frozen parts of a config's model, backbones included.

    They are the backbones of mmflora that take ``peft``, and the ``parts`` of
    an ``mmflora.PEFTModel``.
    """
    for key, module in find_dicts(cfg.get('model'), 'model'):
        kind = module.get('type')
        if not isinstance(kind, str) or not kind.startswith('mmflora.'):
            continue
        builder = MODELS.get(kind)
        arguments = inspect.signature(builder).parameters if builder else ()
        if 'peft' in arguments:
            yield FrozenPart(key, key, key, module)
        elif 'parts' in arguments:
            for path in part_settings(module.get('parts') or {}):
                place, own = f'{key}.parts.{path}', f'{key}.{path}'
                yield FrozenPart(place, own, key, module, path)


def use_plain_batch_norm(node: Any) -> None:
    """Turn SyncBN, which needs GPUs, into BN, everywhere in a config."""
    for _, module in find_dicts(node, ''):
        if module.get('type') in ('SyncBN', 'MMSyncBN'):
            module['type'] = 'BN'
