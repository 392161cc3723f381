"""What adapters read from a layer."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

# Weight norm, spectral norm and pruning of torch.nn.utils compute the weight
# before each forward pass from a parameter of another name.
_NAMES = ('weight', 'weight_v', 'weight_orig')


def weight_name(layer: nn.Module) -> str:
    """Return the name of the parameter that an adapter of a layer updates.

    Of a parametrized layer (torch.nn.utils.parametrizations) it stands in a
    module of its own, which is the layer that gets the adapter.
    """
    if isinstance(layer, nn.MultiheadAttention):
        return 'in_proj_weight'
    if isinstance(layer, ParametrizationList):
        return 'original' if layer.is_tensor else 'original1'
    held = [name for name in _NAMES if name in layer._parameters]
    return held[0] if held else 'weight'


def bias_name(layer: nn.Module) -> str:
    """Return the name of the bias that goes with the weight."""
    attention = isinstance(layer, nn.MultiheadAttention)
    return 'in_proj_bias' if attention else 'bias'


def held_weight(layer: nn.Module) -> nn.Parameter | None:
    """Return the parameter that an adapter of a layer updates, if any."""
    return layer._parameters.get(weight_name(layer))


def check_untied(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Refuse adapters on weights that other modules hold, too.

    An adapter would change such a weight in one place alone, and a stock
    model, which ties the places, could not take the merged weights.

    Raises:
        ValueError: If there are any; both places are named.
    """
    held: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(parameter, []).append(name)
    # A module that stands in several places is one: all of them change.
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, layer in layers.items():
        weight = held_weight(layer)
        for place in held.get(weight, ()) if weight is not None else ():
            if modules[place.rpartition('.')[0]] is not layer:
                raise ValueError(
                    f'{describe_layer(name, layer)}: its weight is also '
                    f"'{place}', which an adapter would not change, and a "
                    'merged weight could not serve both. Leave the layer out '
                    'with `exclude`.'
                )


def describe_layer(name: str, layer: nn.Module) -> str:
    """Return a layer's name, type and weight, as errors begin."""
    weight = held_weight(layer)
    shape = '' if weight is None else f', weight {tuple(weight.shape)}'
    return f"Layer '{name}' ({type(layer).__name__}{shape})"


def frozen_weight(layer: nn.Module) -> Tensor:
    """Return the weight of a layer that an adapter updates.

    Raises:
        AttributeError: If it has none.
    """
    weight = held_weight(layer)
    if weight is None:
        raise AttributeError(f'{type(layer).__name__} has no weight')
    return weight


def transposed_groups(layer: nn.Module) -> int:
    """Return the groups of a transposed convolution, 0 for other layers."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return layer.groups
    return 0
