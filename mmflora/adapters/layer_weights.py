"""What adapters read from a layer."""

from torch import Tensor, nn


def describe_layer(name: str, layer: nn.Module) -> str:
    """Return a layer's name, type and weight, as errors begin."""
    weight = layer._parameters.get('weight')
    if weight is None:
        weight = layer._parameters.get('in_proj_weight')
    shape = '' if weight is None else f', weight {tuple(weight.shape)}'
    return f"Layer '{name}' ({type(layer).__name__}{shape})"


def frozen_weight(layer: nn.Module) -> Tensor:
    """Return the weight of a layer that an adapter updates.

    Raises:
        AttributeError: If it has none.
    """
    attention = isinstance(layer, nn.MultiheadAttention)
    weight = layer._parameters['in_proj_weight' if attention else 'weight']
    if weight is None:
        raise AttributeError(f'{type(layer).__name__} has no weight')
    return weight


def transposed_groups(layer: nn.Module) -> int:
    """Return the groups of a transposed convolution, 0 for other layers."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return layer.groups
    return 0
