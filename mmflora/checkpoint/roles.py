"""Which parameters are frozen, train and are saved; decided only here.

The optimizer, the table of what trains, the hooks, the memory estimate and
all readers of checkpoints use it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch import nn

from mmflora.adapters import adapted_modules

from .record import base_records


class Role(Enum):
    """What a parameter is to the training."""

    BASE = 'base'
    CORE = 'core'
    ADAPTER = 'adapter'
    TUNED = 'tuned'
    NEW = 'new'
    HEAD = 'head'


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of a model.

    Attributes:
        name: Its name in the model.
        parameter: The parameter.
        module: The module that holds it.
        role: What it is to the training.
        part: The name of the frozen part that it stands in, or ``None``.
        trains: Whether it trains.
        decays: Whether weight decay applies to it; not if decay towards zero
            would pull it away from the frozen model.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module
    role: Role
    part: str | None
    trains: bool
    decays: bool


def parameter_roles(model: nn.Module) -> Iterator[NamedParameter]:
    """Yield every parameter of a model once, with its role.

    A frozen part is a module with a record of its base, usually a backbone.
    Within it, adapters (and their cores), tuned and new parameters train, and
    the base does not.  A part that its owner froze as a whole, such as the
    teacher of a semi-supervised detector, stays frozen.  Parameters outside
    of every part train if their owner decided so.

    Args:
        model: The whole model, not wrapped.
    """
    known: dict[nn.Parameter, tuple[str, Role, bool]] = {}
    frozen = set(frozen_by_owner(model))
    for name, (part, record) in base_records(model).items():
        own = dict(part.named_parameters())
        roles = dict.fromkeys(record.base_keys, Role.BASE)
        roles |= dict.fromkeys(record.new_keys, Role.NEW)
        known |= {own[key]: (name, role, True) for key, role in roles.items()}
        steady_keys = set(record.steady_keys)
        for key in record.tuned_keys:
            known[own[key]] = (name, Role.TUNED, key not in steady_keys)
        for layer in adapted_modules(part).values():
            steady = set(layer.adapter.no_decay_parameters())
            cores = set(layer.adapter.core_parameters())
            for parameter in layer.adapter.parameters():
                role = Role.CORE if parameter in cores else Role.ADAPTER
                known[parameter] = (name, role, parameter not in steady)
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            part_name, role, decays = known.get(
                parameter, (None, Role.HEAD, True)
            )
            yield NamedParameter(
                f'{prefix}.{key}' if prefix else key,
                parameter,
                module,
                role,
                part_name,
                parameter.requires_grad
                if part_name is None
                else role is not Role.BASE and part_name not in frozen,
                decays,
            )


def frozen_by_owner(model: nn.Module) -> list[str]:
    """Return the names of the parts in which nothing requires a gradient."""
    return [
        name
        for name, (part, _) in base_records(model).items()
        if not any(p.requires_grad for p in part.parameters())
    ]


def base_keys(model: nn.Module) -> set[str]:
    """Return the keys of all frozen bases, which checkpoints leave out.

    Everything else of a model's state dict is saved.  A base without a
    source is saved too, see :func:`mmflora.checkpoint.adapter_state_dict`.
    """
    return {
        f'{name}.{key}' if name else key
        for name, (_, record) in base_records(model).items()
        for key in record.base_keys
    }
