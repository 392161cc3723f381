"""Freezing a model for adapters, and taking everything off it again."""

import itertools
from typing import Any, NamedTuple

import torch
from torch import nn

from .base import AdapterBase, adapted_modules
from .block_hooks import restore_block
from .blocks import BlockAdapter
from .layers import restore_layer
from .memory.lean import make_plain
from .tuning import Tuning

_BEFORE = 'before_injection'
_ORDER = itertools.count()


class ParameterState(NamedTuple):
    """What injection may change of a parameter."""

    requires_grad: bool
    dtype: torch.dtype


def parameter_states(model: nn.Module) -> dict[str, ParameterState]:
    """Return the state of each parameter of a model by name."""
    return {
        name: ParameterState(parameter.requires_grad, parameter.dtype)
        for name, parameter in model.named_parameters()
    }


def freeze(module: nn.Module) -> None:
    """Freeze each parameter that no earlier injection has decided on."""
    if isinstance(module, AdapterBase) or _BEFORE in vars(module):
        return
    tuning = vars(module).get('tuning')
    trained = tuning.parameters_of(module) if tuning else ()
    for name, parameter in module._parameters.items():
        if parameter is not None and name not in trained:
            parameter.requires_grad_(False)
    for child in module.children():
        freeze(child)


def remember(
    model: nn.Module,
    before: dict[str, ParameterState],
    settings: dict[str, Any],
) -> None:
    """Note on a model what an injection was asked, and what it changed."""
    now = parameter_states(model)
    changed = {name: was for name, was in before.items() if was != now[name]}
    noted = (next(_ORDER), changed, settings)
    vars(model).setdefault(_BEFORE, []).append(noted)


def injections(model: nn.Module) -> list[dict[str, Any]]:
    """Return the settings of each injection into exactly this module."""
    return [noted[2] for noted in vars(model).get(_BEFORE, ())]


def unload(model: nn.Module) -> nn.Module:
    """Take all adapters off a model, in place.

    Layers get their stock classes back, hooks of ours go, and each parameter
    requires a gradient again if it did before the first injection.  The
    frozen base never changed.  What a tuning method trained is the base's
    own and keeps its values.  A record of the base stays where a backbone's
    configuration has attached it.

    A model that was merged before keeps the merged weights, and they train.

    Returns:
        The same model.

    Raises:
        ValueError: If injection has done nothing to it.

    Example:
        >>> inject(model, dict(type='LoRA', rank=8))
        >>> unload(model)
    """
    adapted = adapted_modules(model)
    marked = [
        (prefix, module)
        for prefix, module in model.named_modules()
        if vars(module).keys() & {_BEFORE, 'tuning'}
    ]
    if not adapted and not marked:
        raise ValueError(
            f'{type(model).__name__} has no adapter to take off: it was never '
            'adapted, or has been unloaded before.'
        )
    make_plain(model)
    for module in adapted.values():
        if isinstance(module.adapter, BlockAdapter):
            restore_block(module)
        else:
            restore_layer(module)
    notes: list[tuple[int, str, Any]] = []
    for prefix, module in marked:
        if isinstance(vars(module).get('tuning'), Tuning):
            del vars(module)['tuning']
        for order, changed, _ in vars(module).pop(_BEFORE, ()):
            notes.append((order, f'{prefix}.' if prefix else '', changed))
    parameters = dict(model.named_parameters())
    for _, prefix, changed in sorted(notes, reverse=True):  # the first last
        for name, was in changed.items():
            _restore(parameters[prefix + name], was)
    return model


def _restore(parameter: nn.Parameter, was: ParameterState) -> None:
    # A tuning method trains in single precision.
    if parameter.dtype == torch.float32:
        parameter.data = parameter.data.to(was.dtype)
    parameter.requires_grad_(was.requires_grad)
