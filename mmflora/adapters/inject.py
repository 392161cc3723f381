"""The injector: match layers by name, adapt them in place, freeze the rest."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmflora.registry import ADAPTERS

from .base import Adapter
from .layers import (
    AdaptedLayer,
    adapt_layer,
    check_adapter,
    weight_name,
    why_not_adapted,
)
from .lean import make_lean

# Children whose weights their parent hands to a fused kernel.
_READ: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ('out_proj',),
    nn.TransformerEncoderLayer: ('linear1', 'linear2'),
}

Targets = str | Iterable[str] | Mapping[str, Mapping[str, Any]]


@dataclass
class InjectionReport:
    """What :func:`inject` did.

    Attributes:
        adapted: Names of the adapted layers.
        left_out: Layers with a weight that were matched but not adapted, and
            why.
        remarks: What adapters changed of their settings, by layer.
    """

    adapted: list[str] = field(default_factory=list)
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
    parameter that is not an adapter's stops requiring a gradient.

    Args:
        model: The model, for instance a backbone.
        adapter: The adapter's configuration, ``dict(type='FLoRA', rank=16)``.
        targets: Regular expressions that must match the whole name of a
            layer (``re.fullmatch``): one, several, or a mapping from each to
            options that replace those of ``adapter`` for the layers that it
            matches; the first match counts.
        exclude: Regular expressions for layers to leave alone.
        lean: Rebuild in the backward pass what is cheap to rebuild, see
            :mod:`mmflora.adapters.lean`; else outputs of norms alone.

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
    """
    _check_adapter(adapter)
    options = dict(targets) if isinstance(targets, Mapping) else {}
    _check_options(adapter, options)
    layers = _weighted_layers(model)
    read = _read_layers(model)
    patterns = _compile(targets, 'targets')
    excluded = _compile(exclude, 'exclude')
    _check_patterns(patterns, layers, 'targets')
    _check_patterns(excluded, layers, 'exclude')

    report = InjectionReport()
    chosen: list[tuple[str, nn.Module, str]] = []
    for name, (layer, reason) in layers.items():
        pattern = _first_match(patterns, name)
        if pattern is None or _first_match(excluded, name) is not None:
            continue
        if reason:
            report.left_out[name] = reason
        else:
            chosen.append((name, layer, pattern))
    _check_chosen(chosen, patterns, report, layers)

    built = [
        _build(
            {**adapter, **options.get(pattern, {})}, name, layer, name in read
        )
        for name, layer, pattern in chosen
    ]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for (name, layer, _), update in zip(chosen, built, strict=True):
        adapt_layer(layer, update, read=name in read)
        report.adapted.append(name)
        if update.remark():
            report.remarks[name] = update.remark()
    make_lean(model, norms_only=not lean)
    return report


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Return the adapted layers of a model by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLayer)
    }


def _build(
    config: dict[str, Any], name: str, layer: nn.Module, read: bool
) -> Adapter:
    weight = layer.get_parameter(weight_name(layer))
    options = dict(config)
    kind = options.pop('type')
    # ADAPTERS.build() would look for the toolkit's scope, and warn.
    method = ADAPTERS.get(kind) if isinstance(kind, str) else kind
    try:
        built = method(weight, **options)
        check_adapter(layer, built, read)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"Layer '{name}' ({type(layer).__name__}, weight "
            f'{tuple(weight.shape)}): {error}'
        ) from error
    return built


def _weighted_layers(
    model: nn.Module,
) -> dict[str, tuple[nn.Module, str]]:
    """Map each layer with a matrix or kernel to why it cannot be adapted."""
    layers: dict[str, tuple[nn.Module, str]] = {}
    read = _read_layers(model)
    for name, module in model.named_modules():
        weight = module._parameters.get(weight_name(module))
        # Attention without a packed weight has its matrices apart.
        apart = weight is None and isinstance(module, nn.MultiheadAttention)
        if not apart and (weight is None or weight.dim() < 2):
            continue
        reason = why_not_adapted(module)
        if not reason and name in read and not isinstance(module, nn.Linear):
            reason = f'{read[name]} reads its weight without calling it'
        layers[name] = (module, reason)
    return layers


def _read_layers(model: nn.Module) -> dict[str, str]:
    """Map each layer whose parent reads its weight to the parent's class."""
    read: dict[str, str] = {}
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        kind = getattr(module, 'stock_class', type(module))
        children = _read_children(kind)
        for parent, names in _READ.items():
            if isinstance(module, parent):
                children = [*children, *names]
        for child in children:
            if isinstance(getattr(module, child, None), nn.Module):
                read[prefix + child] = kind.__name__
    return read


def _read_children(kind: type[nn.Module]) -> list[str]:
    """Find children whose weight the forward pass of a class itself reads.

    ``F.linear(x, self.qkv.weight, bias)``, as BEiT and Swin V2 have it, goes
    past the layer and so past its adapter.
    """
    try:
        source = inspect.getsource(kind.forward)
    except (OSError, TypeError):
        return []
    return re.findall(
        r'\bself\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|size|dim)\b)',
        source,
    )


def _check_adapter(adapter: Mapping[str, Any]) -> None:
    if not isinstance(adapter, Mapping) or 'type' not in adapter:
        raise TypeError(
            "`adapter` is a dict with a type, such as dict(type='FLoRA', "
            f'rank=16), got {adapter!r}.'
        )
    kind = adapter['type']
    if isinstance(kind, str) and ADAPTERS.get(kind) is None:
        known = ', '.join(sorted(ADAPTERS.module_dict))
        raise ValueError(
            f"Unknown adapter type '{kind}'. Registered adapters: {known}."
        )


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
        _check_adapter({**adapter, **own})


def _compile(patterns: Targets, argument: str) -> dict[str, re.Pattern[str]]:
    names = [patterns] if isinstance(patterns, str) else list(patterns)
    compiled = {}
    for name in names:
        try:
            compiled[name] = re.compile(name)
        except re.error as error:
            raise ValueError(
                f'`{argument}`: {name!r} is no regular expression ({error}).'
            ) from error
    return compiled


def _first_match(
    patterns: Mapping[str, re.Pattern[str]], name: str
) -> str | None:
    for text, pattern in patterns.items():
        if pattern.fullmatch(name):
            return text
    return None


def _check_patterns(
    patterns: Mapping[str, re.Pattern[str]],
    layers: Mapping[str, Any],
    argument: str,
) -> None:
    for text, pattern in patterns.items():
        if any(pattern.fullmatch(name) for name in layers):
            continue
        near = difflib.get_close_matches(
            text.replace('\\', ''), layers, n=5, cutoff=0.0
        )
        raise ValueError(
            f'`{argument}`: {text!r} matches none of the '
            f"{len(layers)} layers. A pattern must match a layer's whole name "
            f'(re.fullmatch); the nearest names are {", ".join(near)}.'
        )


def _check_chosen(
    chosen: list[tuple[str, nn.Module, str]],
    patterns: Mapping[str, re.Pattern[str]],
    report: InjectionReport,
    layers: Mapping[str, tuple[nn.Module, str]],
) -> None:
    for name in report.left_out:
        if 'already' in report.left_out[name]:
            raise ValueError(
                f"Layer '{name}' already has an adapter: inject once, or "
                'remove the first adapter.'
            )
    for text in patterns:
        matched = [name for name in layers if patterns[text].fullmatch(name)]
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
