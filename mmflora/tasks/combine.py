"""Weighted sums of adapters."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.updates import (
    TuckerUpdate,
    layer_options,
    tucker_updates,
    weighted_sum,
)
from mmflora.adapters import FLoRA

_DEFAULTS = dict(rank=16, kernel_rank=2)


def combine_adapters(
    adapters: Sequence[AdapterFile], weights: Sequence[float]
) -> AdapterFile:
    """Return the adapter whose update is Σ w_i ΔW_i in every layer, exactly.

    It is a FLoRA adapter over the same base whose ranks are the sums of the
    adapters' ranks, so it loads, trains and merges as any other.  Only the
    updates are summed.  Output norms, neck, head, statistics and classes are
    those of the first adapter: they are no updates of anything common.

    Args:
        adapters: FLoRA adapters of one base and the same targets.
        weights: One factor for each.

    Raises:
        ValueError: If there are not as many weights, or if base, targets or
            method differ.
    """
    if not adapters or len(adapters) != len(weights):
        raise ValueError(
            f'{len(adapters)} adapters and {len(weights)} weights: give one '
            'weight for each adapter, and at least one.'
        )
    first = adapters[0]
    for other in adapters:
        _check_alike(first, other)
        _check_signatures(other)
    updates = [tucker_updates(adapter) for adapter in adapters]
    config = {
        **first.config,
        'backbones': {
            name: _combined_backbone([a.backbone(name) for a in adapters])
            for name in first.config['backbones']
        },
        'metrics': {},
    }
    combined = AdapterFile(config, dict(first.tensors))
    for layer in updates[0]:
        total = weighted_sum([part[layer] for part in updates], weights)
        scale = float(layer_options(combined, layer).get('scale', 4.0))
        dtype = first.tensors[f'{layer}.adapter.core'].dtype
        combined.tensors.update(_tensors(layer, total, scale, dtype))
    for name, backbone in config['backbones'].items():
        backbone['method']['signature'] = _signature(combined, name)
    return combined


def _tensors(
    layer: str, update: TuckerUpdate, scale: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    found = {f'{layer}.adapter.core': (update.core / scale).to(dtype)}
    for mode, factor in enumerate(update.factors):
        found[f'{layer}.adapter.factors.{mode}'] = factor.to(dtype)
    return found


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
    common = [method['adapter'] for method in methods]
    method = {**methods[0], 'adapter': {**common[0], **_ranks(common)}}
    if isinstance(methods[0]['targets'], Mapping):
        method['targets'] = {
            pattern: {
                **own,
                **_ranks(
                    [
                        {**base, **m['targets'][pattern]}
                        for base, m in zip(common, methods, strict=True)
                    ]
                ),
            }
            for pattern, own in methods[0]['targets'].items()
        }
    return {**parts[0], 'method': method}


def _ranks(options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ranks of a sum: ranks add up, mode by mode."""
    ranks = [option.get('rank', _DEFAULTS['rank']) for option in options]
    kernels = [
        option.get('kernel_rank', _DEFAULTS['kernel_rank'])
        for option in options
    ]
    if all(isinstance(rank, list) for rank in ranks):
        return dict(rank=[sum(modes) for modes in zip(*ranks, strict=True)])
    if any(isinstance(rank, list) for rank in ranks):
        raise ValueError(
            f'The adapters give their ranks as {ranks}: a sum needs either a '
            'number from all of them or a list from all of them.'
        )
    return dict(rank=sum(ranks), kernel_rank=sum(kernels))


def _check_signatures(adapter: AdapterFile) -> None:
    """Check that what is known of the layers restates their meaning."""
    for name, backbone in adapter.config['backbones'].items():
        if _signature(adapter, name) != backbone['method'].get('signature'):
            raise ValueError(
                f"'{adapter.path}': the settings of its layers cannot be "
                'restated from the file, so no sum can be described. Export '
                'it again from its checkpoint.'
            )


def _signature(adapter: AdapterFile, name: str) -> str:
    """Restate the signature that a backbone's record holds."""
    prefix = f'{name}.' if name else ''
    lines = []
    for own in adapter.config['backbones'][name].get('layers') or ():
        layer = prefix + own
        options = layer_options(adapter, layer)
        options.pop('type', None)
        shape = [
            len(adapter.tensors[f'{layer}.adapter.factors.{mode}'])
            for mode in range(adapter.tensors[f'{layer}.adapter.core'].dim())
        ]
        method = FLoRA(torch.empty(shape, device='meta'), **options)
        lines.append(f'{own}: {method.signature()}')
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]
