"""What adapters read from a layer."""

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
