"""What a checkpoint of adapters says of the method that trained them."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mmflora.adapters import adapted_modules, tuned_parameters
from mmflora.adapters.inject import Targets
from mmflora.adapters.quantized import Quantization
from mmflora.adapters.shared import Sharing


def describe_method(
    backbone: nn.Module,
    adapter: Mapping[str, Any] | None,
    targets: Targets,
    exclude: str | Iterable[str],
    quantization: Quantization | None,
) -> dict[str, Any]:
    """Describe for the record how a base is adapted, in plain types."""
    options = dict(
        adapter=adapter,
        targets=targets,
        exclude=exclude,
        signature=_signature(backbone),
    )
    if quantization is not None:
        options['quantize'] = dataclasses.asdict(quantization)
    described: dict[str, Any] = _plain(options)
    return described


def _signature(backbone: nn.Module) -> str:
    """Condense what the adapters' parameters mean, however it was spelt."""
    lines = [
        f'{name}: {layer.adapter.signature()}'
        for name, layer in adapted_modules(backbone).items()
    ]
    lines += [
        f'{name}: {tuning.signature()}'
        for name, tuning in tuned_parameters(backbone).items()
    ]
    lines += [
        f'{name}: at {place}' for name, place in _unusual_places(backbone)
    ]
    return condensed(lines)


def _unusual_places(backbone: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Return the layers' places in what they share, if it is not their order.

    Patterns of ``targets`` can choose the last layers first.  Then the same
    tensors mean something else than in the order of the model.
    """
    places: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for name, layer in adapted_modules(backbone).items():
        adapter = layer.adapter
        place = adapter.place() if isinstance(adapter, Sharing) else None
        if place is not None:
            places.setdefault(id(adapter.shared), []).append((name, place))
    return [
        entry
        for sharing in places.values()
        if sharing != sorted(sharing, key=lambda entry: entry[1])
        for entry in sharing
    ]


def condensed(lines: Iterable[str]) -> str:
    """Condense the signatures of a backbone's layers, one a line."""
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Turn configuration objects into plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value
