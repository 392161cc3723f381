"""Adapters of a model in memory, saved and loaded by one call each.

A model that a config built knows its base by its record.  A part of any other
model that :func:`mmflora.adapters.inject` has adapted is known by the call's
settings, and its base by the content of its frozen parameters.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmflora.adapters import (
    adapted_modules,
    inject,
    injections,
    tuned_parameters,
    unload,
)
from mmflora.checkpoint.keys import compare_keys, float_shapes, state_shapes
from mmflora.checkpoint.record import base_records, content_hash
from mmflora.checkpoint.state import adapter_state_dict
from mmflora.models.described_method import describe_method

from .adapter import AdapterFile
from .apply import apply_adapter
from .convert import from_state
from .provenance import versions
from .read import read_any
from .schema import described_base, description, plain_json
from .write import write_adapter


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike[str],
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Save what a model learns: adapters, heads, buffers, but no base.

    Args:
        model: A model built from a config of mmflora, or any module that
            :func:`mmflora.inject` has adapted, in part or in full.
        path: A name that ends in ``.safetensors``, or a folder, which is
            made if need be.
        metrics: What the adapter reached, by name, for its description.

    Returns:
        The path.

    Raises:
        OSError: If the disk is full or not writable; what was there before
            is still there.
        ValueError: If the model has no adapter, or a merged one, or if
            :func:`mmflora.inject` has adapted it and nothing requires a
            gradient now, as in an averaged copy.

    Example:
        >>> mmflora.inject(model, dict(type='FLoRA', rank=16))
        >>> ...
        >>> mmflora.save_adapter(model, 'cells.safetensors')
    """
    if base_records(model):
        adapter = _from_records(model, metrics or {})
    else:
        adapter = _from_injections(model, metrics or {})
    return write_adapter(adapter, path)


def load_adapter(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load an adapter into a model over the same base.

    A model without adapters is adapted as the file says.  Nothing changes
    unless all of it fits.

    Args:
        model: The model as it was when the adapter was saved, or the stock
            one with the same base weights.
        path: What :func:`save_adapter` or ``tools/adapters.py export`` wrote,
            or a training checkpoint.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the file is damaged, or base, settings, keys or shapes
            differ; all that differs is listed.

    Example:
        >>> mmflora.load_adapter(stock_model, 'cells.safetensors')
    """
    adapter = read_any(path)
    if base_records(model):
        return apply_adapter(model, adapter)
    injected = []
    try:
        for name, described in adapter.config['backbones'].items():
            part = _part(model, name, adapter)
            if not injections(part):
                _inject_as_described(part, described)
                injected.append(part)
            _check_method(part, name, described, adapter)
        _check_tensors(model, adapter)
    except Exception:
        for part in injected:
            unload(part)
        raise
    model.load_state_dict(adapter.tensors, strict=False)
    return model


def _from_records(
    model: nn.Module, metrics: Mapping[str, float]
) -> AdapterFile:
    for name, (part, record) in base_records(model).items():
        if record.method.get('adapter') is not None:
            _check_unmerged(part, name)
    config = getattr(model, 'cfg', None)
    meta = dict(
        cfg=getattr(config, 'pretty_text', ''),
        dataset_meta=getattr(model, 'dataset_meta', None),
        mmflora=dict(
            backbones={
                name: dict(tuned=list(record.tuned_keys))
                for name, (_, record) in base_records(model).items()
            }
        ),
    )
    with adapter_state_dict():
        return from_state(model.state_dict(), meta, metrics)


def _from_injections(
    model: nn.Module, metrics: Mapping[str, float]
) -> AdapterFile:
    parts = {
        name: module
        for name, module in model.named_modules()
        if injections(module)
    }
    if not parts:
        raise ValueError(
            f'{type(model).__name__} has no adapter to save: no part of it '
            'was adapted by mmflora.inject() or built from a config of '
            'mmflora.'
        )
    for name, part in parts.items():
        _check_unmerged(part, name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f'Nothing in {type(model).__name__} requires a gradient, as in an '
            'averaged copy. So what trained beside the adapters, such as a '
            'head, cannot be told from the frozen base. Call '
            'requires_grad_(True) on all parameters that trained.'
        )
    state = {
        key: value
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
    backbones = {}
    for name, part in parts.items():
        learnt = {id(parameter) for parameter in _parameters_of(part)}
        frozen = {
            key: parameter
            for key, parameter in part.named_parameters()
            if not parameter.requires_grad and id(parameter) not in learnt
        }
        backbones[name] = dict(
            method=_describe(part),
            base=dict(
                described_base(None, content_hash(frozen), None),
                saved_along=False,
            ),
            config=None,
            layers=[
                key
                for key, module in adapted_modules(part).items()
                if module.adapter.state_dict()
            ],
            tuned=[],
        )
        for key in frozen:
            state.pop(f'{name}.{key}' if name else key)
    config = description(
        backbones,
        model=type(model).__name__,
        versions=versions(),
        metrics=dict(metrics),
    )
    return AdapterFile(plain_json(config), state)


def _parameters_of(part: nn.Module) -> Iterator[nn.Parameter]:
    """Yield what adapters and tuning methods train, frozen now or not."""
    for module in adapted_modules(part).values():
        yield from module.adapter.parameters()
    for key in tuned_parameters(part):
        yield part.get_parameter(key)


def _check_unmerged(part: nn.Module, name: str) -> None:
    if not adapted_modules(part) and not tuned_parameters(part):
        raise ValueError(
            f"The part '{name}' ({type(part).__name__}) has no adapter any "
            'more: it was merged or taken off. Undo the merge (merge() '
            'returns the way back), or keep the weights with torch.save().'
        )


def _describe(part: nn.Module) -> dict[str, Any]:
    calls = injections(part)
    first = calls[0]
    method = describe_method(
        part, first['adapter'], first['targets'], first['exclude'], None
    )
    return {**method, 'injections': plain_json(calls)}


def _part(model: nn.Module, name: str, adapter: AdapterFile) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"The adapter '{adapter.path}' is for the part '{name}', which "
            f'{type(model).__name__} has not. Load it into the model that it '
            'was saved from, or one of the same class.'
        ) from error


def _inject_as_described(
    part: nn.Module, described: Mapping[str, Any]
) -> None:
    method = described['method']
    single = {key: method.get(key) for key in ('adapter', 'targets')}
    single['exclude'] = method.get('exclude') or ()
    for call in method.get('injections') or [single]:
        inject(part, **call)


def _check_method(
    part: nn.Module,
    name: str,
    described: Mapping[str, Any],
    adapter: AdapterFile,
) -> None:
    """Check that adapters mean the same, over the same base."""
    ours, theirs = _describe(part), described['method']
    if ours['signature'] != theirs.get('signature'):
        raise ValueError(
            f"The adapter '{adapter.path}' was trained with "
            f'adapter={theirs.get("adapter")}, targets='
            f"{theirs.get('targets')}; the part '{name}' of this model has "
            f'adapter={ours["adapter"]}, targets={ours["targets"]}. Inject '
            'with the settings of the file, or load it into a model without '
            'adapters, which is then adapted as the file says.'
        )
    prefix = f'{name}.' if name else ''
    own = {id(parameter) for parameter in _parameters_of(part)}
    base = {
        key: parameter
        for key, parameter in part.named_parameters()
        if id(parameter) not in own and prefix + key not in adapter.tensors
    }
    wanted, content = described['base']['sha256'], content_hash(base)
    if content != wanted:
        raise ValueError(
            f"The adapter '{adapter.path}' was trained over another base: "
            f"the frozen parameters of the part '{name}' have the SHA-256 "
            f'{wanted} there and {content} here. Load the base weights that '
            'the adapter belongs to first.'
        )


def _check_tensors(model: nn.Module, adapter: AdapterFile) -> None:
    base = {
        f'{name}.{key}' if name else key
        for name in adapter.config['backbones']
        for key, parameter in model.get_submodule(name).named_parameters()
    }
    adapters = {
        f'{name}.adapter.{key}' if name else f'adapter.{key}'
        for name, module in adapted_modules(model).items()
        for key in module.adapter.state_dict()
    }
    expected = {
        key: shape
        for key, shape in state_shapes(model).items()
        if key in adapters or key not in base or key in adapter.tensors
    }
    report = compare_keys(float_shapes(adapter.tensors), expected)
    if report:
        raise ValueError(
            f"The adapter '{adapter.path}' does not fit "
            f'{type(model).__name__}:\n{report}\nNothing was loaded. Load it '
            'into the model that it was saved from, or one of the same class.'
        )
