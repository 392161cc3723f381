"""A model of the toolkits with any of its modules as frozen parts."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.record import base_records
from mmflora.registry import MODELS

from .frozen import freeze_part
from .kept_classes import KeptClasses
from .peft_options import PEFTOptions, part_settings
from .start import StartFromFile, outside_shapes
from .text_models import support_text_detectors
from .train_mode import release_stages

LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
"""Modules that run through their children, where a record has no place."""


@MODELS.register_module(name='PEFTModel')
def build_peft_model(
    model_type: str,
    parts: Mapping[str, Any],
    init_cfg: Any = None,
    new_params: str | Iterable[str] = (),
    unused_keys: str | Iterable[str] = (),
    kept_classes: Mapping[str, Any] | None = None,
    **settings: Any,
) -> nn.Module:
    r"""Build a model, and make modules of it frozen parts.

    Args:
        model_type: The ``type`` of the model.
        parts: Maps the path of each part to its settings, see
            :class:`mmflora.models.peft_options.PEFTOptions`.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``: the
            checkpoint of a whole model.  Each part finds its base there under
            its own path.  What stands outside of the parts starts from it
            when training starts.  Entries of other types are the model's own.
        new_params: Patterns of keys outside of the parts that the checkpoint
            lacks, or has in another shape; they start as the model's class
            draws them.
        unused_keys: Patterns of keys outside of the parts that the checkpoint
            has and the model lacks.
        kept_classes: ``dict(count=80, rows=[None, 15])``: the checkpoint has
            80 classes, and the model's second one is its 16th, so that the
            rows of this class in weights of another shape are taken over.
        **settings: The model's own settings.

    Returns:
        The very model that its class built.

    Raises:
        FileNotFoundError: If the checkpoint is missing.
        TypeError: If a part has no such setting.
        ValueError: If there is no such part, one lies inside another, or the
            base does not fit in full.

    Example:
        >>> model = dict(
        ...     type='mmflora.PEFTModel',
        ...     model_type='DINO',
        ...     parts={
        ...         'backbone': dict(adapter=dict(type='FLoRA', rank=16)),
        ...         'encoder': dict(adapter=dict(type='LoRA', rank=8)),
        ...     },
        ...     init_cfg=dict(type='Pretrained', checkpoint='dino.pth'),
        ...     new_params=[r'bbox_head\.cls_branches\.\d+\.(weight|bias)'],
        ...     backbone=dict(type='ResNet', depth=50),
        ... )
    """
    options = {
        path: _options(path, own) for path, own in part_settings(parts).items()
    }
    source = pretrained_cfg(init_cfg)
    if others := _other_entries(init_cfg):
        settings['init_cfg'] = others
    model: Any = MMENGINE_MODELS.build(dict(type=model_type, **settings))
    support_text_detectors()
    check_parts(model, options)
    for path, own in options.items():
        _freeze(model, path, own, source)
    release_stages(model)
    new, unused = _patterns(new_params), _patterns(unused_keys)
    _check_new(model, new)
    # The runner calls it; copies of the model get a copy that is theirs.
    kept = None if kept_classes is None else KeptClasses(**kept_classes)
    model.init_weights = StartFromFile(model, source, new, unused, kept)
    return model


def check_parts(model: nn.Module, paths: Iterable[str]) -> None:
    """Check that modules of a model can be frozen parts beside each other.

    Raises:
        ValueError: If one is not there, has no weights, or lies inside
            another; or if the model has frozen parts already.
    """
    paths = list(paths)
    if not paths:
        raise ValueError(
            '`parts` is empty: name at least one module of '
            f'{type(model).__name__}, such as '
            f'{", ".join(list(modules_with_weights(model))[:8])}.'
        )
    if there := [name or 'the model' for name in base_records(model)]:
        raise ValueError(
            f'{type(model).__name__} has frozen parts of its own: '
            f"{', '.join(there)}. Take mmflora's backbone out of the config, "
            "and name the stock one's path in `parts`."
        )
    known = modules_with_weights(model)
    for path in paths:
        if path not in known:
            raise ValueError(f'`parts`: {unknown_part(model, path)}')
        if isinstance(known[path], LISTS):
            raise ValueError(
                f"`parts`: '{path}' is a list of modules. Name its members, "
                f"'{path}.{next(iter(known[path]._modules))}' and so on, or "
                'let mmflora.peft_config() do it.'
            )
        for other in paths:
            if path.startswith(f'{other}.'):
                raise ValueError(
                    f"`parts`: '{path}' lies inside '{other}'. A weight "
                    'belongs to one part: name one of the two, and use '
                    '`targets` and `exclude` within it.'
                )


def modules_with_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model that have parameters, by their paths."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and next(module.parameters(), None) is not None
    }


def unknown_part(model: nn.Module, path: str) -> str:
    """Say that a model has no such part, and name the nearest ones."""
    kind, known = type(model).__name__, modules_with_weights(model)
    if path in dict(model.named_modules()):
        return (
            f"'{path}' of {kind} has no weights, so that nothing could be "
            'frozen or adapted. Leave it out.'
        )
    near = difflib.get_close_matches(path, known, n=5, cutoff=0.4)
    top = [name for name in known if '.' not in name]
    return (
        f'{path!r} matches no module of {kind}. '
        + (f'The nearest are {", ".join(near)}. ' if near else '')
        + f'The modules of {kind} with weights are {", ".join(top)}; a path '
        'such as '
        + next((name for name in known if '.' in name), 'head.decoder')
        + ' reaches into them, and a pattern must match a whole path.'
    )


def _options(path: str, settings: Mapping[str, Any]) -> PEFTOptions:
    try:
        return PEFTOptions.of(settings)
    except TypeError as error:
        raise TypeError(f"`parts` of '{path}': {error}") from error


def _other_entries(init_cfg: Any) -> list[Any]:
    """Return the entries of an ``init_cfg`` that name no weights."""
    if not init_cfg:
        return []
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    return [entry for entry in entries if pretrained_cfg(entry) is None]


def _patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _freeze(
    model: nn.Module,
    path: str,
    options: PEFTOptions,
    source: Mapping[str, Any] | None,
) -> None:
    """Make a module of a model a frozen part."""
    part = model.get_submodule(path)
    if source is not None:
        start = (source.get('prefix') or '').removesuffix('.')
        prefix = f'{start}.{path}.' if start else f'{path}.'
        source = {**source, 'prefix': prefix}
    try:
        freeze_part(part, options, source, own_keys=True)
        _check_unshared(model, path, part)
    except (ValueError, TypeError) as error:
        raise type(error)(f"The part '{path}': {error}") from error


def _check_unshared(model: nn.Module, path: str, part: nn.Module) -> None:
    """Refuse adapters on weights that the model also uses elsewhere.

    Raises:
        ValueError: If there are any; both places are named.
    """
    outside = {
        parameter: name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not name.startswith(f'{path}.')
    }
    for name, layer in adapted_modules(part).items():
        for key, parameter in layer._parameters.items():
            if parameter in outside:
                raise ValueError(
                    f"'{name}.{key}' is also '{outside[parameter]}', outside "
                    'of the part: an adapter would change it in one place '
                    'alone, and a merged weight could not serve both. Leave '
                    'the layer out with `exclude`.'
                )


def _check_new(model: nn.Module, patterns: Iterable[str]) -> None:
    keys = outside_shapes(model)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, key) for key in keys):
            raise ValueError(
                f'`new_params`: {pattern!r} matches nothing outside of the '
                f'parts of {type(model).__name__}. A pattern must match the '
                "whole key of a weight, such as r'bbox_head\\.fc_cls\\."
                "weight'; those of a part stand in its own `new_params`."
            )
