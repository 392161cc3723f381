"""What a config trains and what its checkpoint weighs, without building it.

The model is built on PyTorch's meta device: shapes alone, no memory, no base
weights, so that the largest backbone takes a second.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmflora.checkpoint.keys import matches_any
from mmflora.checkpoint.record import BaseRecord, base_records
from mmflora.config.build import build_model

_SUFFIXES = {'': 1, 'k': 1e3, 'M': 1e6, 'G': 1e9}


@dataclass(frozen=True)
class ParameterCount:
    """The counts of one model.

    Attributes:
        total: All parameters, the frozen ones included.
        base: Parameters of the backbone that its pre-trained weights hold.
        method: Parameters of the backbone that the method trains: adapters,
            or some of the base's own.
        new: Trained parameters of the backbone that no base holds (norms of
            its outputs).
        neck: Trained parameters of the neck.
        heads: Trained parameters of everything else.
        file_bytes: Weights in a checkpoint of a run: what trains, and
            buffers.  The optimizer's state comes on top.
        full_bytes: Weights in a checkpoint of the whole model, merged.
    """

    total: int
    base: int
    method: int
    new: int
    neck: int
    heads: int
    file_bytes: int
    full_bytes: int

    @property
    def trainable(self) -> int:
        """All parameters that train."""
        return self.method + self.new + self.neck + self.heads


def parse_count(text: str, what: str) -> float:
    """Read a number of parameters such as ``12.94M``, ``200k`` or ``4857349``.

    Args:
        text: A number, with the suffix k, M or G (a thousand, a million, a
            milliard) or none.
        what: What the number is, for the error.

    Raises:
        ValueError: If it is no such number, or not above zero.
    """
    match = re.fullmatch(r'(\d+\.?\d*|\.\d+)([kMG]?)', text.strip())
    value = float(match[1]) * _SUFFIXES[match[2]] if match else 0.0
    if not 0 < value < math.inf:
        raise ValueError(
            f'{what}: {text!r} is no number of parameters. Give one above '
            'zero, such as 12.94M, 200k or 4857349 (k, M and G stand for a '
            'thousand, a million and a milliard).'
        )
    return value


def build_on_meta(cfg: Config, part: str = 'model') -> nn.Module:
    """Build the model of a config without memory and without weights.

    Args:
        cfg: The config; it is not changed.
        part: The place of what to build, such as ``'model.backbone'``.

    Raises:
        ValueError: If the config has no model, or its ``default_scope`` names
            no library that mmflora works with.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return build_model(cfg, part, weights=False, device='meta')


def count_model(model: nn.Module) -> ParameterCount:
    """Count a model by component, on any device.

    Args:
        model: The whole model, not wrapped.  Its backbones are those with a
            frozen base; where there are none, its child ``backbone``.
    """
    backbones = _backbones(model)
    parts = ('total', 'base', 'method', 'new', 'neck', 'heads')
    counts = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        part = _component(name, backbones)
        counts['total'] += size
        if part == 'base':
            counts['base'] += size
        if parameter.requires_grad:
            trained = 'method' if part in ('base', 'adapter') else part
            counts[trained] += size
    file_bytes, full_bytes = _file_sizes(model, backbones)
    return ParameterCount(
        **counts, file_bytes=file_bytes, full_bytes=full_bytes
    )


@dataclass(frozen=True)
class _Backbone:
    """What tells the parameters of one backbone apart, by key."""

    prefix: str
    stock: frozenset[str]
    new: frozenset[str]
    omitted: frozenset[str]


def _backbones(model: nn.Module) -> list[_Backbone]:
    found = []
    for name, (_, record) in base_records(model).items():
        found.append(_with_record(f'{name}.' if name else '', record))
    plain = getattr(model, 'backbone', None)
    if not found and isinstance(plain, nn.Module):
        patterns = getattr(plain, 'new_params', ())
        keys = frozenset(plain.state_dict())
        new = frozenset(key for key in keys if matches_any(patterns, key))
        found.append(_Backbone('backbone.', keys, new, frozenset()))
    return found


def _with_record(prefix: str, record: BaseRecord) -> _Backbone:
    return _Backbone(
        prefix,
        stock=frozenset(record.stock_shapes),
        new=frozenset(record.new_keys),
        omitted=frozenset(record.base_keys),
    )


def _component(name: str, backbones: Iterable[_Backbone]) -> str:
    for backbone in backbones:
        if name.startswith(backbone.prefix):
            key = name.removeprefix(backbone.prefix)
            if key in backbone.new:
                return 'new'
            return 'base' if key in backbone.stock else 'adapter'
    return 'neck' if name.startswith('neck.') else 'heads'


def _file_sizes(
    model: nn.Module, backbones: Sequence[_Backbone]
) -> tuple[int, int]:
    """Return the bytes of a run's checkpoint and of a merged one."""
    run = full = 0
    for name, size in _tensor_bytes(model):
        part = _component(name, backbones)
        owner = [b for b in backbones if name.startswith(b.prefix)]
        key = name.removeprefix(owner[0].prefix) if owner else name
        run += 0 if owner and key in owner[0].omitted else size
        full += 0 if part == 'adapter' else size
    return run, full


def _tensor_bytes(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            yield name, value.numel() * value.element_size()
