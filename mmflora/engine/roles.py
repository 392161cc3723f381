"""What each parameter of a model is to the training: base, adapter, head."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch import nn

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.record import base_records


class Role(Enum):
    """The role of a parameter."""

    BASE = 'base'
    CORE = 'core'
    ADAPTER = 'adapter'
    TUNED = 'tuned'
    NEW = 'new'
    HEAD = 'head'

    @property
    def trains(self) -> bool:
        """Whether parameters of this role are trained."""
        return self is not Role.BASE


@dataclass(frozen=True)
class NamedParameter:
    """A parameter with its name, its module and its role."""

    name: str
    parameter: nn.Parameter
    module: nn.Module
    role: Role


def parameter_roles(model: nn.Module) -> Iterator[NamedParameter]:
    """Yield every parameter of a model once, with its role.

    Frozen parameters of a backbone are its base, those of the base that a
    tuning method trains are tuned; adapters (and their cores) are known by
    the layers that hold them; other parameters of a backbone are new;
    whatever stands outside of a backbone with a base is a head's, necks
    included.

    Args:
        model: The whole model, not wrapped.

    Raises:
        ValueError: If no backbone of the model has a frozen base.
    """
    roles: dict[nn.Parameter, Role] = {}
    backbones = base_records(model)
    if not backbones:
        raise ValueError(
            'The model has no backbone with a frozen base. Build it with '
            "type='mmflora.FLoRAConvNeXt' or type='mmflora.PEFTBackbone', or "
            'train it with the default optimizer wrapper constructor.'
        )
    for backbone, record in backbones.values():
        for layer in adapted_modules(backbone).values():
            for parameter in layer.adapter.parameters():
                roles[parameter] = Role.ADAPTER
            for parameter in layer.adapter.core_parameters():
                roles[parameter] = Role.CORE
        own = dict(backbone.named_parameters())
        roles.update({own[key]: Role.BASE for key in record.base_keys})
        roles.update({own[key]: Role.TUNED for key in record.tuned_keys})
        roles.update({own[key]: Role.NEW for key in record.new_keys})
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            full = f'{prefix}.{name}' if prefix else name
            role = roles.get(parameter, Role.HEAD)
            yield NamedParameter(full, parameter, module, role)


def component(name: str, backbones: list[str]) -> str:
    """Return the component that a name belongs to: a backbone or a child."""
    for backbone in backbones:
        if name.startswith(f'{backbone}.') or not backbone:
            return backbone or 'backbone'
    return name.split('.', 1)[0]
