"""Weighted sums of adapters.

Where the update is linear in something that the files hold, Σ w_i ΔW_i is an
adapter of the same method, exactly; each method says how its tensors add up,
see :class:`mmflora.adapters.stored.Stored`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.method_options import (
    StoredMethod,
    common_options,
    layer_options,
    tuned_keys,
)
from mmflora.adapter_files.restated import signature_of
from mmflora.adapters.settings import settings_for
from mmflora.adapters.stored import Part


def combine_adapters(
    adapters: Sequence[AdapterFile], weights: Sequence[float]
) -> AdapterFile:
    """Return the adapter whose update is Σ w_i ΔW_i in every layer, exactly.

    It is an adapter of the same method over the same base, so it loads,
    trains and merges as any other.  Where ranks add up, its settings say so.
    Only the updates are summed.  Output norms, neck, head, statistics and
    classes are those of the first adapter: they are no updates of anything
    common.

    Args:
        adapters: Adapters of one base, one method and the same targets.
        weights: One finite factor for each.

    Raises:
        ValueError: If there are not as many weights, or one is not finite, if
            base, targets or method differ, or if sums of the method are no
            adapters of it.
    """
    _check_weights(adapters, weights)
    try:
        return _combined(adapters, weights)
    except (ValueError, TypeError) as error:
        if any(adapter.path in str(error) for adapter in adapters):
            raise
        names = ', '.join(f"'{adapter.path}'" for adapter in adapters)
        raise type(error)(f'{names}: {error}') from error


def _combined(
    adapters: Sequence[AdapterFile], weights: Sequence[float]
) -> AdapterFile:
    first = adapters[0]
    for other in adapters:
        _check_alike(first, other)
        for layer in other.layers():
            _check_method(other, layer)
    config = {
        **first.config,
        'backbones': {
            name: _combined_backbone([a.backbone(name) for a in adapters])
            for name in first.config['backbones']
        },
        'metrics': {},
    }
    combined = AdapterFile(config, dict(first.tensors))
    changed = [
        name
        for name, backbone in config['backbones'].items()
        if backbone['method'] != first.backbone(name)['method']
    ]
    for name in config['backbones']:
        _check_signatures(adapters, name, name in changed)
    _add_updates(combined, adapters, weights)
    _add_tuned(combined, adapters, weights)
    for name in changed:
        method = combined.backbone(name)['method']
        method['signature'] = signature_of(combined, name)
    return combined


def _check_weights(
    adapters: Sequence[AdapterFile], weights: Sequence[float]
) -> None:
    if not adapters or len(adapters) != len(weights):
        raise ValueError(
            f'{len(adapters)} adapters and {len(weights)} weights: give one '
            'weight for each adapter, and at least one.'
        )
    for adapter, weight in zip(adapters, weights, strict=True):
        if not math.isfinite(weight):
            raise ValueError(
                f"The weight of '{adapter.path}' is {weight}: weights are "
                'finite numbers, such as 0.5 or -1, else the sum holds no '
                'numbers either.'
            )


def _add_updates(
    combined: AdapterFile,
    adapters: Sequence[AdapterFile],
    weights: Sequence[float],
) -> None:
    """Put the sums of the layers' updates into an adapter."""
    stored = [adapter.layers() for adapter in adapters]
    for layer, tensors in stored[0].items():
        parts = [
            Part(weight, layers[layer], _method(adapter, layer).settings)
            for weight, layers, adapter in zip(
                weights, stored, adapters, strict=True
            )
        ]
        method = _method(combined, layer)
        total = method.reader.summed(parts, method.settings)
        for name, value in total.items():
            dtype = tensors[name].dtype
            combined.tensors[f'{layer}.adapter.{name}'] = value.to(dtype)


def _add_tuned(
    combined: AdapterFile,
    adapters: Sequence[AdapterFile],
    weights: Sequence[float],
) -> None:
    """Put the means of what was trained of the base into an adapter."""
    keys = tuned_keys(combined)
    if keys and not math.isclose(sum(weights), 1, abs_tol=1e-9):
        raise ValueError(
            f'The adapters hold {len(keys)} parameters of the base itself, '
            f"such as '{keys[0]}', as they are after training. Their sum "
            f'with weights that add up to {sum(weights):g} needs the values '
            'before it, which are not in the files. Give weights whose sum '
            'is 1.'
        )
    for key in keys:
        values = [adapter.tensors[key] for adapter in adapters]
        pairs = zip(weights, values, strict=True)
        total = torch.stack([w * value.double() for w, value in pairs]).sum(0)
        combined.tensors[key] = total.to(values[0].dtype)


def _method(adapter: AdapterFile, layer: str) -> StoredMethod:
    return StoredMethod.of(layer_options(adapter, layer))


def _check_method(adapter: AdapterFile, layer: str) -> None:
    """Check that there are sums of a layer's method."""
    method = _method(adapter, layer)
    if not method.reader.has_sums():
        raise ValueError(
            f"'{adapter.path}': layer '{layer}' has an adapter of type "
            f'{method.name}. A weighted sum of such adapters is not an '
            'adapter of that type. FLoRA, LoRA and other methods whose update '
            'is linear in their tensors (see `Sums` in '
            'docs/adapters-as-files.md) and tuned parameters of the base can '
            'be summed. For others, merge each model and average their '
            'weights.'
        )


def _check_alike(first: AdapterFile, other: AdapterFile) -> None:
    ours, theirs = first.config['backbones'], other.config['backbones']
    pair = f"'{first.path}' and '{other.path}'"
    if ours.keys() != theirs.keys():
        raise ValueError(
            f'{pair} have backbones {sorted(ours)} and {sorted(theirs)}: only '
            'adapters of one architecture can be summed.'
        )
    for name, one in ours.items():
        two = theirs[name]
        hashes = [part['base']['sha256'] for part in (one, two)]
        if hashes[0] != hashes[1]:
            raise ValueError(
                f'{pair} were trained over different bases (SHA-256 '
                f'{hashes[0]} and {hashes[1]}): their updates have no common '
                'weight to be added to.'
            )
        stored = [part['method'].get('quantize') for part in (one, two)]
        if stored[0] != stored[1]:
            raise ValueError(
                f'{pair} were trained over bases that are stored otherwise '
                f'(quantize={stored[0]} and {stored[1]}), for whose errors '
                'their updates differ.'
            )
        if one.get('tuned') != two.get('tuned'):
            raise ValueError(
                f'{pair} trained other parameters of the base: only adapters '
                'of the same layers can be summed.'
            )
        for part in ('targets', 'exclude'):
            given = [m['method'].get(part) or () for m in (one, two)]
            names = [[g] if isinstance(g, str) else list(g) for g in given]
            if names[0] != names[1]:
                raise ValueError(
                    f'{pair} differ in `{part}` ({given[0]!r} and '
                    f'{given[1]!r}): only adapters of the same layers can be '
                    'summed.'
                )


def _combined_backbone(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a backbone's description with the settings of a sum."""
    methods = [part['method'] for part in parts]
    common = [common_options(part) for part in parts]
    method = {**methods[0], 'adapter': {**common[0], **_settings(common)}}
    targets = methods[0].get('targets')
    if isinstance(targets, Mapping):
        method['targets'] = {}
        for pattern, own in targets.items():
            options = [
                settings_for(base, m['targets'][pattern])
                for base, m in zip(common, methods, strict=True)
            ]
            method['targets'][pattern] = {**own, **_settings(options)}
    return {**parts[0], 'method': method}


def _settings(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what changes of the settings in a sum, such as the rank."""
    if not any(options):
        return {}  # frozen, without a method
    methods = [StoredMethod.of(option) for option in options]
    names = {method.name for method in methods}
    if len(names) != 1:
        raise ValueError(
            f'The adapters are of the methods {sorted(names)}: only those of '
            'one can be summed.'
        )
    settings = [method.settings for method in methods]
    return methods[0].reader.summed_settings(settings)


def _check_signatures(
    adapters: Sequence[AdapterFile], name: str, changed: bool
) -> None:
    """Check that all parts give their tensors the meaning that is known.

    A signature condenses it.  Where the settings of the sum are those of its
    parts, all have the same; where they change, each can be restated, so that
    the sum's can.
    """
    signatures = [
        a.backbone(name)['method'].get('signature') for a in adapters
    ]
    for adapter, own in zip(adapters, signatures, strict=True):
        if own != (signature_of(adapter, name) if changed else signatures[0]):
            raise ValueError(
                f"'{adapter.path}': the settings of its layers cannot be "
                'restated from the file, or are others than those of '
                f"'{adapters[0].path}', so no sum can be described. Sum "
                'adapters of one config, exported from its checkpoints.'
            )
