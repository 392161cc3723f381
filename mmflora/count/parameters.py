"""What a config trains and what its checkpoint weighs, without building it.

The model is built on PyTorch's meta device: shapes alone, no memory, no base
weights, so that the largest backbone takes a second.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmflora.checkpoint.keys import matches_any
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import (
    NamedParameter,
    Role,
    base_keys,
    parameter_roles,
)
from mmflora.config.build import build_model


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


def parameter_parts(
    model: nn.Module,
) -> Iterator[tuple[str, NamedParameter]]:
    """Yield every parameter once, with the part of the model that it is.

    It is ``'base'`` (trained or not), ``'adapters'``, ``'new'``, ``'neck'`` or
    ``'heads'``.  Where nothing has a record of its base, the child
    ``backbone`` is base.
    """
    plain = None if base_records(model) else getattr(model, 'backbone', None)
    patterns = getattr(plain, 'new_params', ())
    for item in parameter_roles(model):
        name = item.name.removeprefix('backbone.')
        if item.part is not None:
            yield _PARTS[item.role], item
        elif plain is not None and name != item.name:
            yield 'new' if matches_any(patterns, name) else 'base', item
        else:
            yield 'neck' if name.startswith('neck.') else 'heads', item


_PARTS = {
    Role.BASE: 'base',
    Role.TUNED: 'base',
    Role.CORE: 'adapters',
    Role.ADAPTER: 'adapters',
    Role.NEW: 'new',
}


def count_model(model: nn.Module) -> ParameterCount:
    """Count a model by component, on any device.

    Args:
        model: The whole model, not wrapped.  Its backbones are those with a
            frozen base; where there are none, its child ``backbone``.
    """
    counts: Counter[str] = Counter()
    for part, item in parameter_parts(model):
        size = item.parameter.numel()
        counts['total'] += size
        if part == 'base':
            counts['base'] += size
        if item.trains:
            counts['method' if part in ('base', 'adapters') else part] += size
    names = ('total', 'base', 'method', 'new', 'neck', 'heads')
    return ParameterCount(
        **{name: counts[name] for name in names}, **_file_sizes(model)
    )


def _file_sizes(model: nn.Module) -> dict[str, int]:
    """Return the bytes of a run's checkpoint and of a merged one."""
    omitted, added = base_keys(model), set()
    for name, (part, record) in base_records(model).items():
        stock = {*record.stock_shapes, *record.new_keys}
        prefix = f'{name}.' if name else ''
        added |= {prefix + key for key in part.state_dict().keys() - stock}
    sizes = {
        key: value.numel() * value.element_size()
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
    return dict(
        file_bytes=sum(n for key, n in sizes.items() if key not in omitted),
        full_bytes=sum(n for key, n in sizes.items() if key not in added),
    )
