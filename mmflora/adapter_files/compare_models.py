"""How two adapters of any method differ, by the models that they make.

Where an update depends on the frozen weight (DoRA, SSF, peft's methods), or
is one of the base's own parameters, it is in no file.  Here the models are
built, and each layer is asked for its change.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from mmflora.adapters import (
    AdaptedLayer,
    adapted_layers,
    adapted_modules,
    tuned_parameters,
)
from mmflora.adapters.updates import Update
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
    for name in dict.fromkeys([*ours, *theirs]):
        made = [
            changes[name]() for changes in (ours, theirs) if name in changes
        ]
        zero = torch.zeros_like(made[0])
        one = made[0] if name in ours else zero
        two = made[-1] if name in theirs else zero
        updates = Update(one), Update(two)
        names = first.path, second.path
        rows.append(layer_difference(name, updates, names))
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
        if not module.adapter.mergeable:
            raise ValueError(
                f"'{adapter.path}': '{name}' has an adapter of type "
                f'{type(module.adapter).__name__}, which is no change of a '
                'weight. Compare adapters that can be merged.'
            )
    for name, layer in adapted_layers(model).items():
        changes[f'{name}.{layer.weight_name}'] = partial(_weight_change, layer)
        bias: Any = layer.base_bias()
        adapted = None if bias is None else layer.adapter.adapted_bias(bias)
        if adapted is not None and not torch.equal(adapted, bias):
            changes[f'{name}.{layer.bias_name}'] = partial(_bias_change, layer)
    for key, before in start.items():
        parameter = model.get_parameter(key)
        changes[key] = partial(_parameter_change, parameter, before)
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


def _weight_change(layer: AdaptedLayer) -> Tensor:
    return layer.delta_weight().double()


def _bias_change(layer: AdaptedLayer) -> Tensor:
    bias: Any = layer.base_bias()
    adapted: Any = layer.adapter.adapted_bias(bias.double())
    return adapted.double() - bias.double()


def _parameter_change(parameter: Tensor, before: Tensor) -> Tensor:
    return parameter.double() - before
