"""Weighted sums of adapters."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.method_options import (
    is_tuning,
    layer_options,
    merged_options,
    method_name,
    tuned_keys,
    tuned_options,
)
from mmflora.registry import ADAPTERS

from .sums import RULES, Part, Rule, layer_signature


def combine_adapters(
    adapters: Sequence[AdapterFile], weights: Sequence[float]
) -> AdapterFile:
    """Return the adapter whose update is Σ w_i ΔW_i in every layer, exactly.

    It is an adapter of the same method over the same base, so it loads,
    trains and merges as any other; :mod:`mmflora.tasks.sums` says of which
    methods there is one.  Where ranks add up, its settings say so.  Only the
    updates are summed.  Output norms, neck, head, statistics and classes are
    those of the first adapter: they are no updates of anything common.

    Args:
        adapters: Adapters of one base, one method and the same targets.
        weights: One factor for each.

    Raises:
        ValueError: If there are not as many weights, if base, targets or
            method differ, or if sums of the method are no adapters of it.
    """
    if not adapters or len(adapters) != len(weights):
        raise ValueError(
            f'{len(adapters)} adapters and {len(weights)} weights: give one '
            'weight for each adapter, and at least one.'
        )
    first = adapters[0]
    for other in adapters:
        _check_alike(first, other)
        for layer in other.layers():
            _rule(other, layer)
    config = {
        **first.config,
        'backbones': {
            name: _combined_backbone([a.backbone(name) for a in adapters])
            for name in first.config['backbones']
        },
        'metrics': {},
    }
    combined = AdapterFile(config, dict(first.tensors))
    _check_signatures(combined, adapters)
    _add_updates(combined, adapters, weights)
    _add_tuned(combined, adapters, weights)
    for name in config['backbones']:
        if not _same_settings(combined, first, name):
            method = combined.backbone(name)['method']
            method['signature'] = _signature(combined, name)
    return combined


def _add_updates(
    combined: AdapterFile,
    adapters: Sequence[AdapterFile],
    weights: Sequence[float],
) -> None:
    """Put the sums of the layers' updates into an adapter."""
    stored = [adapter.layers() for adapter in adapters]
    for layer, tensors in stored[0].items():
        parts = [
            Part(weight, layers[layer], layer_options(adapter, layer))
            for weight, layers, adapter in zip(
                weights, stored, adapters, strict=True
            )
        ]
        rule = _rule(combined, layer)
        total = rule.tensors(parts, layer_options(combined, layer))
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
        total: Any = sum(
            weight * value.double()
            for weight, value in zip(weights, values, strict=True)
        )
        combined.tensors[key] = torch.as_tensor(total).to(values[0].dtype)


def _rule(adapter: AdapterFile, layer: str) -> Rule:
    """Return how a layer's adapters are summed."""
    options = layer_options(adapter, layer)
    name = method_name(options)
    if name not in RULES:
        raise ValueError(
            f"'{adapter.path}': layer '{layer}' has an adapter of type "
            f'{name}, of which a weighted sum is no adapter of that type. '
            f'{", ".join(RULES)} and tuned parameters of the base can be '
            'summed; of others, merge each model and average their weights.'
        )
    return RULES[name]


def _check_alike(first: AdapterFile, other: AdapterFile) -> None:
    ours, theirs = first.config['backbones'], other.config['backbones']
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"'{first.path}' and '{other.path}' have backbones "
            f'{sorted(ours)} and {sorted(theirs)}: only adapters of one '
            'architecture can be summed.'
        )
    for name, one in ours.items():
        two = theirs[name]
        if one['base']['sha256'] != two['base']['sha256']:
            raise ValueError(
                f"'{first.path}' and '{other.path}' were trained over "
                f'different bases (SHA-256 {one["base"]["sha256"]} and '
                f'{two["base"]["sha256"]}): their updates have no common '
                'weight to be added to.'
            )
        stored = [part['method'].get('quantize') for part in (one, two)]
        if stored[0] != stored[1]:
            raise ValueError(
                f"'{first.path}' and '{other.path}' were trained over bases "
                f'that are stored otherwise (quantize={stored[0]} and '
                f'{stored[1]}), for whose errors their updates differ.'
            )
        if one.get('tuned') != two.get('tuned'):
            raise ValueError(
                f"'{first.path}' and '{other.path}' trained other parameters "
                'of the base: only adapters of the same layers can be summed.'
            )
        for part in ('targets', 'exclude'):
            if _names(one['method'][part]) != _names(two['method'][part]):
                raise ValueError(
                    f"'{first.path}' and '{other.path}' differ in `{part}` "
                    f'({one["method"][part]!r} and {two["method"][part]!r}): '
                    'only adapters of the same layers can be summed.'
                )


def _names(patterns: Any) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _combined_backbone(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    methods = [part['method'] for part in parts]
    common = [dict(method['adapter'] or {}) for method in methods]
    method = {**methods[0], 'adapter': {**common[0], **_settings(common)}}
    if isinstance(methods[0]['targets'], Mapping):
        method['targets'] = {
            pattern: {
                **own,
                **_settings(
                    [
                        merged_options(base, m['targets'][pattern])
                        for base, m in zip(common, methods, strict=True)
                    ]
                ),
            }
            for pattern, own in methods[0]['targets'].items()
        }
    return {**parts[0], 'method': method}


def _settings(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what changes of the settings in a sum, such as the rank."""
    names = {method_name(option) for option in options}
    if len(names) != 1:
        raise ValueError(
            f'The adapters are of the methods {sorted(names)}: only those of '
            'one can be summed.'
        )
    rule = RULES.get(names.pop())
    return {} if rule is None else rule.settings(options)


def _check_signatures(
    combined: AdapterFile, adapters: Sequence[AdapterFile]
) -> None:
    """Check that the layers' meaning is known, where the sum has another.

    Where the settings stay, all must have the meaning that the sum has.
    """
    for name, backbone in combined.config['backbones'].items():
        for adapter in adapters:
            own = adapter.backbone(name)['method'].get('signature')
            if _same_settings(combined, adapters[0], name):
                known = backbone['method'].get('signature')
            else:
                known = _signature(adapter, name)
            if own != known:
                raise ValueError(
                    f"'{adapter.path}': the settings of its layers cannot be "
                    'restated from the file, or are others than those of '
                    f"'{adapters[0].path}', so no sum can be described. Sum "
                    'adapters of one config, exported from its checkpoints.'
                )


def _same_settings(
    combined: AdapterFile, first: AdapterFile, name: str
) -> bool:
    """Say whether a sum has the settings of its first part."""
    ours = combined.backbone(name)['method']
    theirs = first.backbone(name)['method']
    return all(ours[part] == theirs[part] for part in ('adapter', 'targets'))


def _signature(adapter: AdapterFile, name: str) -> str:
    """Restate the signature that a backbone's record holds."""
    prefix = f'{name}.' if name else ''
    backbone = adapter.config['backbones'][name]
    stored: Mapping[str, Mapping[str, Tensor]] = adapter.layers()
    lines = [
        f'{own}: '
        + layer_signature(
            stored[prefix + own], layer_options(adapter, prefix + own)
        )
        for own in backbone.get('layers') or ()
    ]
    for own in backbone.get('tuned') or ():
        options = tuned_options(adapter, prefix + own)
        if is_tuning(options):
            tuning: Any = ADAPTERS.get(method_name(options))
            lines.append(f'{own}: {tuning().signature()}')
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]
