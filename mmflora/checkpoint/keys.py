"""Exact accounting of the keys that a file offers a model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmflora.adapters import adapted_layers
from mmflora.adapters.layers import ReadLayer

Shapes = Mapping[str, tuple[int, ...]]


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Return whether one of the patterns matches the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's weights and buffers by key.

    Integer buffers (counters, index tables) follow from the architecture;
    files may lack them, and they do not count here.
    """
    return float_shapes(module.state_dict())


def computed_buffers(module: nn.Module) -> list[str]:
    """Return patterns of buffers that mmcv's ConvAWS2d computes itself."""
    return [
        re.escape(f'{name}.' if name else '') + 'weight_(beta|gamma)'
        for name, layer in module.named_modules()
        if {'weight_beta', 'weight_gamma'} <= layer._buffers.keys()
    ]


@dataclass
class KeyReport:
    """How the keys of a file fit those of a model.

    Attributes:
        missing: Keys of the model that the file lacks.
        unexpected: Keys of the file that the model lacks.
        mismatched: Keys of both with ``(file's shape, model's shape)``.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=dict
    )

    def __bool__(self) -> bool:
        """Whether anything does not fit."""
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Return a list of what does not fit, one kind a line."""
        lines = []
        if self.missing:
            lines.append(f'  missing in the file: {_listed(self.missing)}')
        if self.unexpected:
            lines.append(f'  unknown to the model: {_listed(self.unexpected)}')
        if self.mismatched:
            pairs = [
                f'{key} {theirs} in the file, {ours} in the model'
                for key, (theirs, ours) in self.mismatched.items()
            ]
            lines.append(f'  of another shape: {_listed(pairs)}')
        return '\n'.join(lines)


def compare_keys(
    offered: Shapes,
    expected: Shapes,
    optional: Iterable[str] = (),
    ignored: Iterable[str] = (),
) -> KeyReport:
    """Compare the keys that a file offers with those of a model.

    Args:
        offered: The file's keys and shapes.
        expected: The model's keys and shapes.
        optional: Patterns of keys of the model that the file may lack.
        ignored: Patterns of keys of the file that the model may lack.
    """
    optional, ignored = list(optional), list(ignored)
    report = KeyReport()
    for key, shape in expected.items():
        if key not in offered:
            if not matches_any(optional, key):
                report.missing.append(key)
        elif tuple(offered[key]) != tuple(shape):
            report.mismatched[key] = (tuple(offered[key]), tuple(shape))
    report.unexpected = [
        key
        for key in offered
        if key not in expected and not matches_any(ignored, key)
    ]
    return report


def float_shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the floating-point tensors of a state dict."""
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def without_adapters(
    module: nn.Module, keys: Iterable[str], prefix: str = ''
) -> str:
    """Return how to leave out the layers that a file has no adapter for.

    Earlier versions adapted no layer with a forward pass of its own.

    Args:
        module: An adapted module.
        keys: The file's keys.
        prefix: Where the module stands in the file.

    Returns:
        ``''`` where the file lacks the adapter of a layer of another kind.
    """
    held = {key.partition('.adapter.')[0] for key in keys}
    lacking = {
        name: isinstance(layer, ReadLayer)
        for name, layer in adapted_layers(module).items()
        if prefix + name not in held
    }
    if not lacking or not all(lacking.values()):
        return ''
    patterns = [re.escape(name) for name in lacking]
    return (
        ' An earlier version of mmflora had no adapters for layers that '
        'compute in their own way. To leave them out as well, add '
        f'exclude={patterns}.'
    )


def _listed(items: Iterable[str], most: int = 12) -> str:
    items = list(items)
    more = f', … ({len(items)} in all)' if len(items) > most else ''
    return ', '.join(items[:most]) + more
