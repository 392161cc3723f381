"""The injector: match layers by name, adapt them in place, freeze the rest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmflora.registry import ADAPTERS

from .base import Adapter, AdapterBase
from .block_hooks import adapt_block
from .blocks import BlockAdapter
from .candidates import Candidates, Survey
from .layer_weights import check_untied, describe_layer
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
            expression, if a layer already has an adapter or holds a weight
            that another one holds, too, or if the adapter refuses its
            options.
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
    before, survey = parameter_states(model), Survey(model)
    options = dict(targets) if isinstance(targets, Mapping) else {}
    _check_options(adapter, options)
    groups = [
        _Target(text, pattern, settings_for(adapter, options.get(text, {})))
        for text, pattern in compile_patterns(targets, 'targets').items()
    ]
    excluded = compile_patterns(exclude, 'exclude')
    names: dict[str, Any] = {}
    for group in groups:
        group.found = survey.candidates(group.method, group.options)
        check_patterns({group.text: group.pattern}, group.found, 'targets')
        names |= group.found
    check_patterns(excluded, names, 'exclude')

    report = InjectionReport()
    chosen = _choose(groups, excluded, report)
    _check_chosen(chosen, groups, report)
    built = _build(chosen, survey.read, report)
    _check_chosen(built, groups, report)
    check_untied(
        model,
        {
            n: layer
            for n, (layer, a) in built.items()
            if isinstance(a, Adapter)
        },
    )
    freeze(model)
    _put_in_place(model, built, survey.read, report)
    make_lean(model, norms_only=not lean)
    remember(
        model,
        before,
        dict(
            adapter=dict(adapter),
            targets=options or [group.text for group in groups],
            exclude=[*excluded],
            lean=lean,
        ),
    )
    return report


class _Target:
    """One pattern, its method and settings, and what it matches."""

    def __init__(
        self, text: str, pattern: re.Pattern[str], config: Mapping[str, Any]
    ) -> None:
        self.text, self.pattern, self.config = text, pattern, config
        # ADAPTERS.build() would look for the toolkit's scope, and warn.
        kind = config['type']
        self.method: Any = (
            ADAPTERS.get(kind) if isinstance(kind, str) else (kind)
        )
        self.options = {k: v for k, v in config.items() if k != 'type'}
        self.found: Candidates = {}

    def matched(self) -> list[str]:
        return [name for name in self.found if self.pattern.fullmatch(name)]


def _choose(
    groups: Iterable[_Target],
    excluded: Mapping[str, re.Pattern[str]],
    report: InjectionReport,
) -> dict[str, tuple[nn.Module, _Target]]:
    """Map each layer to adapt to it and to the pattern that chose it."""
    chosen: dict[str, tuple[nn.Module, _Target]] = {}
    for group in groups:
        for name in group.matched():
            if name in chosen or name in report.left_out:
                continue
            if first_match(excluded, name) is not None:
                continue
            layer, reason = group.found[name]
            _check_free(name, layer, issubclass(group.method, Tuning))
            if reason:
                report.left_out[name] = reason
            else:
                chosen[name] = (layer, group)
    return chosen


def _check_free(name: str, part: nn.Module, tunes: bool) -> None:
    """Check that no earlier injection has changed the same part.

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
    chosen: Mapping[str, tuple[nn.Module, _Target]],
    read: Mapping[str, str],
    report: InjectionReport,
) -> dict[str, tuple[nn.Module, Any]]:
    """Build all adapters; layers of equal settings are built together."""
    together: list[tuple[_Target, dict[str, nn.Module]]] = []
    for name, (layer, target) in chosen.items():
        for group, layers in together:
            if group.config == target.config:
                layers[name] = layer
                break
        else:
            together.append((target, {name: layer}))
    built: dict[str, tuple[nn.Module, Any]] = {}
    for group, layers in together:
        if issubclass(group.method, Tuning):
            adapters = dict.fromkeys(layers, group.method(**group.options))
        else:
            adapters = group.method.build_all(layers, **group.options)
        for name, adapter in adapters.items():
            if isinstance(adapter, str):
                report.left_out[name] = adapter
                continue
            _check_fit(name, layers[name], adapter, name in read)
            built[name] = (layers[name], adapter)
    return built


def _check_fit(name: str, layer: nn.Module, adapter: Any, read: bool) -> None:
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
            adapt_block(layer, adapter, model)
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
    groups: Iterable[_Target],
    report: InjectionReport,
) -> None:
    for group in groups:
        matched = group.matched()
        if matched and all(name in report.left_out for name in matched):
            reasons = '; '.join(
                f"'{name}': {report.left_out[name]}" for name in matched[:5]
            )
            raise ValueError(
                f'`targets`: nothing that {group.text!r} matches can be '
                f'adapted ({reasons}). Choose other layers.'
            )
    if not chosen:
        raise ValueError(
            '`targets` and `exclude` together leave no layer to adapt: '
            'every layer that `targets` matches is excluded.'
        )
