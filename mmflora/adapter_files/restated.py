"""A description whose layers get other settings: its method, its signature."""

import re
from collections.abc import Mapping
from typing import Any

from mmflora.adapters.settings import settings_for
from mmflora.models.described_method import condensed

from .adapter import AdapterFile
from .method_options import StoredMethod, common_options, layer_options


def restated_method(
    backbone: Mapping[str, Any],
    options: Mapping[str, dict[str, Any]],
    named: bool = False,
) -> dict[str, Any]:
    """Return a backbone's method with other settings for its layers.

    Where all layers get the same, it stands under ``adapter``; else each
    layer is named in ``targets``.  What trains parameters of the base stays.

    Args:
        backbone: The description of the backbone.
        options: By the names of the layers in the backbone, all that have an
            adapter, their settings with ``type``.
        named: Whether to name the layers in any case, as fewer of them have
            one than the old patterns match.
    """
    method, common = dict(backbone['method']), common_options(backbone)
    method.pop('injections', None)  # the call that the settings were part of
    targets = method.get('targets')
    patterns = dict(targets) if isinstance(targets, Mapping) else {}
    tuning = {
        pattern: whole
        for pattern, whole in (
            (pattern, settings_for(common, own))
            for pattern, own in patterns.items()
        )
        if StoredMethod.of(whole).tunes
    }
    first, *others = options.values()
    if not named and all(other == first for other in others):
        changed: Any = {p: tuning.get(p, {}) for p in patterns} or targets
        return {**method, 'adapter': first, 'targets': changed}
    targets = {re.escape(layer): own for layer, own in options.items()}
    kind = dict(type=first['type'])  # all else is named for each layer
    changed = dict(adapter=kind, targets={**targets, **tuning})
    if named and not tuning:
        # A pattern of what no method looks at any more would be an error.
        changed['exclude'] = []
    return {**method, **changed}


def signature_of(adapter: AdapterFile, name: str) -> str:
    """Restate the signature that a backbone's record holds."""
    prefix = f'{name}.' if name else ''
    backbone = adapter.config['backbones'][name]
    stored, lines = adapter.layers(), []
    for own in backbone.get('layers') or ():
        method = StoredMethod.of(layer_options(adapter, prefix + own))
        tensors = stored[prefix + own]
        text = method.reader.stored_signature(tensors, method.settings)
        lines.append(f'{own}: {text}')
    for own in backbone.get('tuned') or ():
        layer = (prefix + own).rpartition('.')[0]
        options = layer_options(adapter, layer, tuned=True)
        method = StoredMethod.of(options)
        if method.tunes:
            lines.append(f'{own}: {method.kind().signature()}')
    return condensed(lines)
