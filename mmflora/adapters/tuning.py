"""What a tuning method is: it trains parameters that the base already has."""

from typing import Any, ClassVar

import torch
from torch import nn

from .stored import Stored


class Tuning(Stored):
    """Chooses which of a layer's own parameters train; adds nothing.

    The parameters start at the base's values, keep their names and are saved
    with the adapters; merging leaves them as they are.  A method subclasses
    it in one file, registers in ``ADAPTERS`` and names the parameters.

    Attributes:
        ordinary: Whether the layers train as in any fine-tuning: weight decay
            applies, and batch norms follow the batches.  Else there is no
            decay, which would pull the base's values to zero, and a batch
            norm keeps its statistics.

    Raises:
        TypeError: If it is given settings: by default there are none.
    """

    paper: ClassVar[str] = ''
    mergeable: ClassVar[bool] = True
    ordinary: ClassVar[bool] = False

    def __init__(self, **settings: Any) -> None:
        if settings:
            given = ', '.join(f'{k}={v!r}' for k, v in settings.items())
            raise TypeError(
                f'{type(self).__name__} trains parameters of the base and has '
                f'no settings, got {given}. Leave them out; `targets` and '
                '`exclude` choose the layers.'
            )

    def parameters_of(self, layer: nn.Module) -> list[str]:
        """Return the names of a layer's own parameters that train.

        Args:
            layer: Any module; its children are asked for apart.
        """
        raise NotImplementedError

    def signature(self) -> str:
        return f'{type(self).__name__}()'


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return a module's own floating-point parameters by name."""
    return {
        name: parameter
        for name, parameter in layer._parameters.items()
        if parameter is not None and parameter.is_floating_point()
    }


def is_norm(layer: nn.Module) -> bool:
    """Return whether a layer is a norm, of PyTorch or of another library.

    Those that subclass nothing of PyTorch's are known by their name and by a
    weight of one dimension (timm's global response norm among them).
    """
    if isinstance(layer, _NORMS):
        return True
    weight = layer._parameters.get('weight')
    named = 'norm' in type(layer).__name__.lower()
    return named and weight is not None and weight.dim() == 1


def tune(layer: nn.Module, tuning: Tuning) -> list[str]:
    """Let parameters of a layer train, and note on the layer by what.

    Those of half precision become float32, as adapters are beside such a
    weight: small steps would be lost in rounding.  The layer then computes
    under autocast.

    Returns:
        Their names in the layer.
    """
    names = tuning.parameters_of(layer)
    for name in names:
        parameter = layer.get_parameter(name)
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    vars(layer)['tuning'] = tuning
    return names


def tuned_parameters(model: nn.Module) -> dict[str, Tuning]:
    """Map each parameter that a tuning method trains to the method."""
    found: dict[str, Tuning] = {}
    seen: set[Any] = set()
    for prefix, module in model.named_modules():
        tuning = vars(module).get('tuning')
        if not isinstance(tuning, Tuning):
            continue
        for name in tuning.parameters_of(module):
            parameter = module.get_parameter(name)
            if parameter not in seen:
                seen.add(parameter)
                found[f'{prefix}.{name}' if prefix else name] = tuning
    return found


_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
    nn.LocalResponseNorm,
)
