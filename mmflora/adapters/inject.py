"""The injector: match layers by name, adapt them in place, freeze the rest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmflora.registry import ADAPTERS

from .base import Adapter, AdapterBase, describe_layer
from .blocks import BlockAdapter, adapt_block
from .candidates import Candidates, Survey
from .layers import adapt_layer, check_adapter
from .memory.lean import make_lean
from .settings import check_type, settings_for
from .targets import Targets, check_patterns, compile_patterns, first_match
from .tuning import Tuning, tune
from .unload import freeze, parameter_states, remember


@dataclass
class InjectionReport:
    """What :func:`inject` did.

    Attributes:
        adapted: Names of the adapted layers and blocks.
        tuned: Names of the base's parameters that train.
        left_out: Layers with a weight that were matched but not adapted, and
            why.
        remarks: What adapters changed of their settings, by layer.
    """

    adapted: list[str] = field(default_factory=list)
    tuned: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


def inject(
    model: nn.Module,
    adapter: Mapping[str, Any],
    targets: Targets = '.*',
    exclude: str | Iterable[str] = (),
    lean: bool = False,
) -> InjectionReport:
    r"""Give the matching layers of a model an adapter, and freeze the rest.

    Layers change in place, so that no key of the model is renamed; every
    parameter that is not an adapter's stops requiring a gradient, but for
    those that a tuning method trains.  A later injection adds to other layers
    and leaves what trains by the first; :func:`unload` takes all off again.

    Args:
        model: The model, for instance a backbone.
        adapter: The adapter's configuration, ``dict(type='FLoRA', rank=16)``.
        targets: Regular expressions that must match the whole name of a
            layer (``re.fullmatch``): one, several, or a mapping from each to
            options that replace those of ``adapter`` for the layers that it
            matches (all of them, where it names another ``type``); the first
            match counts whose method deals with such layers.
        exclude: Regular expressions for layers to leave alone.
        lean: Rebuild in the backward pass what is cheap to rebuild, see
            :mod:`mmflora.adapters.memory.lean`; else outputs of norms alone.

    Returns:
        Which layers were adapted, and which were left out and why.

    Raises:
        ValueError: If a pattern matches no layer or is no regular
            expression, if a layer already has an adapter, or if the adapter
            refuses its options.
        TypeError: If ``adapter`` names no type.

    Example:
        >>> inject(
        ...     backbone,
        ...     dict(type='FLoRA', rank=16),
        ...     targets={r'stages\.3\..*': dict(rank=32), '.*': {}},
        ...     exclude=r'stem\..*',
        ... )
        >>> inject(
        ...     backbone,
        ...     dict(type='LoRA', rank=8),
        ...     targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}},
        ... )
    """
    check_type(adapter)
    before = parameter_states(model)
    patterns = compile_patterns(targets, 'targets')
    options = dict(targets) if isinstance(targets, Mapping) else {}
    _check_options(adapter, options)
    settings = {
        text: settings_for(adapter, options.get(text, {})) for text in patterns
    }
    survey = Survey(model)
    found = {
        text: survey.candidates(_method(config), _options(config))
        for text, config in settings.items()
    }
    names = {name for layers in found.values() for name in layers}
    excluded = compile_patterns(exclude, 'exclude')
    for text, pattern in patterns.items():
        check_patterns({text: pattern}, list(found[text]), 'targets')
    every = [name for name, _ in model.named_modules() if name in names]
    check_patterns(excluded, every, 'exclude')

    report = InjectionReport()
    tunes = {
        text: issubclass(_method(config), Tuning)
        for text, config in settings.items()
    }
    chosen = _choose(patterns, excluded, found, tunes, report)
    _check_chosen(chosen, patterns, report, found)
    built = _build(chosen, settings, survey.read, report)
    _check_chosen(built, patterns, report, found)
    freeze(model)
    _put_in_place(model, built, survey.read, report)
    make_lean(model, norms_only=not lean)
    remember(
        model,
        before,
        dict(
            adapter=dict(adapter),
            targets=options or [*patterns],
            exclude=[*excluded],
            lean=lean,
        ),
    )
    return report


def _method(config: Mapping[str, Any]) -> type:
    # ADAPTERS.build() would look for the toolkit's scope, and warn.
    kind = config['type']
    method: type = ADAPTERS.get(kind) if isinstance(kind, str) else kind
    return method


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != 'type'}


def _choose(
    patterns: Mapping[str, re.Pattern[str]],
    excluded: Mapping[str, re.Pattern[str]],
    found: Mapping[str, Candidates],
    tunes: Mapping[str, bool],
    report: InjectionReport,
) -> dict[str, tuple[nn.Module, str]]:
    """Map each layer to adapt to it and to the pattern that chose it."""
    chosen: dict[str, tuple[nn.Module, str]] = {}
    for text, pattern in patterns.items():
        for name, (layer, reason) in found[text].items():
            known = name in chosen or name in report.left_out
            if known or not pattern.fullmatch(name):
                continue
            if first_match(excluded, name) is not None:
                continue
            _check_free(name, layer, tunes[text])
            if reason:
                report.left_out[name] = reason
            else:
                chosen[name] = (layer, text)
    return chosen


def _check_free(name: str, part: nn.Module, tunes: bool) -> None:
    """Check that an earlier injection has not been at a part already.

    A layer may have an adapter and parameters of its own that train.

    Raises:
        ValueError: If it has; the part and its method are named.
    """
    method = (
        vars(part).get('tuning') if tunes else part._modules.get('adapter')
    )
    if isinstance(method, (AdapterBase, Tuning)):
        has = 'trains by' if tunes else 'has an adapter,'
        raise ValueError(
            f"Layer '{name}' already {has} {type(method).__name__}: leave it "
            'out with `exclude`, or take all adapters off the model first '
            'with unload(model).'
        )


def _build(
    chosen: Mapping[str, tuple[nn.Module, str]],
    settings: Mapping[str, Mapping[str, Any]],
    read: Mapping[str, str],
    report: InjectionReport,
) -> dict[str, tuple[nn.Module, Any]]:
    """Build all adapters; layers of equal settings form one group."""
    groups: list[tuple[Mapping[str, Any], dict[str, nn.Module]]] = []
    for name, (layer, text) in chosen.items():
        for config, layers in groups:
            if config == settings[text]:
                layers[name] = layer
                break
        else:
            groups.append((settings[text], {name: layer}))
    built: dict[str, tuple[nn.Module, Any]] = {}
    for config, layers in groups:
        method: Any = _method(config)
        if issubclass(method, Tuning):
            tuning = method(**_options(config))
            built.update({key: (layers[key], tuning) for key in layers})
            continue
        for name, adapter in method.build_all(
            layers, **_options(config)
        ).items():
            if isinstance(adapter, str):
                report.left_out[name] = adapter
                continue
            _check_fit(name, layers[name], adapter, name in read)
            built[name] = (layers[name], adapter)
    return built


def _check_fit(
    name: str, layer: nn.Module, adapter: AdapterBase, read: bool
) -> None:
    """Check that a layer can take its adapter, before any changes.

    Raises:
        TypeError: If the layer's type cannot be adapted.
        ValueError: If the adapter's settings do not suit it.
    """
    if not isinstance(adapter, Adapter):
        return
    try:
        check_adapter(layer, adapter, read)
    except (TypeError, ValueError) as error:
        place = describe_layer(name, layer)
        raise type(error)(f'{place}: {error}') from error


def _put_in_place(
    model: nn.Module,
    built: Mapping[str, tuple[nn.Module, Any]],
    read: Mapping[str, str],
    report: InjectionReport,
) -> None:
    """Adapt the layers, in the order in which the model has them."""
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    for name in sorted(built, key=order.__getitem__):
        layer, adapter = built[name]
        if isinstance(adapter, Tuning):
            prefix = f'{name}.' if name else ''
            report.tuned += [prefix + key for key in tune(layer, adapter)]
            continue
        if isinstance(adapter, BlockAdapter):
            adapt_block(layer, adapter)
        else:
            adapt_layer(layer, adapter, read=name in read)
        report.adapted.append(name)
        if adapter.remark():
            report.remarks[name] = adapter.remark()


def _check_options(
    adapter: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    for pattern, own in options.items():
        if not isinstance(own, Mapping):
            raise TypeError(
                f'`targets`: {pattern!r} maps to {own!r}, but only a dict of '
                "the adapter's options can follow, such as dict(rank=32) "
                'or {} for none.'
            )
        check_type(settings_for(adapter, own))


def _check_chosen(
    chosen: Mapping[str, Any],
    patterns: Mapping[str, re.Pattern[str]],
    report: InjectionReport,
    found: Mapping[str, Candidates],
) -> None:
    for text in patterns:
        matched = [n for n in found[text] if patterns[text].fullmatch(n)]
        if matched and all(name in report.left_out for name in matched):
            reasons = '; '.join(
                f"'{name}': {report.left_out[name]}" for name in matched[:5]
            )
            raise ValueError(
                f'`targets`: nothing that {text!r} matches can be adapted '
                f'({reasons}). Choose other layers.'
            )
    if not chosen:
        raise ValueError(
            '`targets` and `exclude` together leave no layer to adapt: '
            'every layer that `targets` matches is excluded.'
        )
