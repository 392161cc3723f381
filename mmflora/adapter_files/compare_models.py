"""How two adapters of any method differ, by the models that they make.

Where an update depends on the frozen weight (DoRA, SSF, peft's methods), or
is one of the base's own parameters, it is in no file.  Here the models are
built, and each layer is asked for its change.
"""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from mmflora.adapters import (
    adapted_layers,
    adapted_modules,
    tuned_parameters,
)
from mmflora.checkpoint.record import base_records

from .adapter import AdapterFile
from .apply import apply_adapter, build
from .compare import LayerDifference, layer_difference

Change = Callable[[], Tensor]


@torch.no_grad()
def compare_models(
    first: AdapterFile,
    second: AdapterFile,
    configs: tuple[str | Config, str | Config],
) -> list[LayerDifference]:
    """Compare two adapters of one base, layer by layer, in full.

    Args:
        first: An adapter.
        second: Another, of the same or another method and other layers.
        configs: The config of each.

    Returns:
        A row for each weight, bias or other parameter of the backbones that
        either of them changes, without angles.

    Raises:
        FileNotFoundError: If a config or a base is missing.
        ValueError: If an adapter does not fit its config, the bases differ,
            or one adds more than a change of weights (a bottleneck).
    """
    _check_bases(first, second)
    ours, theirs = map(changes_of, (first, second), configs)
    rows = []
    for name in (*ours, *(key for key in theirs if key not in ours)):
        made = [
            changes[name]() for changes in (ours, theirs) if name in changes
        ]
        one = made[0] if name in ours else torch.zeros_like(made[0])
        two = made[-1] if name in theirs else torch.zeros_like(made[0])
        if one.shape != two.shape:
            raise ValueError(
                f"'{name}' has shape {tuple(one.shape)} in '{first.path}' and "
                f"{tuple(two.shape)} in '{second.path}'. Compare adapters of "
                'one architecture.'
            )
        norms = float(one.norm()), float(two.norm())
        rows.append(layer_difference(name, norms, float((one * two).sum())))
    return rows


def changes_of(
    adapter: AdapterFile, config: str | Config
) -> dict[str, Change]:
    """Build an adapter's model, and return what changes in its base.

    Args:
        adapter: The adapter.
        config: The config that it was trained with.

    Returns:
        By parameter what computes its change, in float64: adapted less
        frozen.
    """
    model = build(config, adapter)
    tuned = tuned_parameters(model)
    if tuned and not all(r.in_place for _, r in base_records(model).values()):
        raise ValueError(
            f"'{adapter.path}' trains the base's own parameters, whose first "
            'values are in the base alone. Name its file in `init_cfg` of '
            "the config's backbone."
        )
    start = {key: model.get_parameter(key).double() for key in tuned}
    apply_adapter(model, adapter)
    changes: dict[str, Change] = {}
    for name, module in adapted_modules(model).items():
        _check_update(adapter, name, module)
    for name, layer in adapted_layers(model).items():
        changes[f'{name}.{layer.weight_name}'] = _weight_change(layer)
        bias = layer.base_bias()
        if bias is None:
            continue
        adapted = layer.adapter.adapted_bias(bias)
        if adapted is not None and not torch.equal(adapted, bias):
            changes[f'{name}.{layer.bias_name}'] = _bias_change(layer)
    for key, before in start.items():
        changes[key] = _parameter_change(model.get_parameter(key), before)
    if not changes:
        raise ValueError(f"'{adapter.path}' changes nothing of its base.")
    return changes


def _check_bases(first: AdapterFile, second: AdapterFile) -> None:
    for name, backbone in first.config['backbones'].items():
        other = second.config['backbones'].get(name)
        ours = backbone['base']['sha256']
        theirs = None if other is None else other['base']['sha256']
        same_kind = other is not None and backbone.get('tuned') == other.get(
            'tuned'
        )
        if other is None or (same_kind and ours != theirs):
            raise ValueError(
                f"'{first.path}' and '{second.path}' were trained over "
                f'different bases (SHA-256 {ours} and {theirs}): their '
                'changes are of different weights.'
            )


def _check_update(adapter: AdapterFile, name: str, module: Any) -> None:
    if not module.adapter.mergeable:
        raise ValueError(
            f"'{adapter.path}': '{name}' has an adapter of type "
            f'{type(module.adapter).__name__}, which is no change of a '
            'weight. Compare adapters that can be merged.'
        )


def _weight_change(layer: Any) -> Change:
    return lambda: layer.delta_weight().double()


def _bias_change(layer: Any) -> Change:
    def change() -> Tensor:
        bias = layer.base_bias().double()
        return layer.adapter.adapted_bias(bias).double() - bias

    return change


def _parameter_change(parameter: Tensor, before: Tensor) -> Change:
    return lambda: parameter.double() - before
