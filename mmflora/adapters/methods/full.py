"""Full fine-tuning, of a whole backbone or of chosen layers."""

from torch import nn

from mmflora.registry import ADAPTERS

from ..tuning import Tuning, own_parameters


@ADAPTERS.register_module()
class Full(Tuning):
    r"""Trains every parameter of the layers, as any fine-tuning does.

    Example:
        >>> everything = dict(type='Full')
        >>> mixed = dict(
        ...     adapter=dict(type='LoRA', rank=8),
        ...     targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}},
        ... )
    """

    paper = 'fine-tuning as usual'
    ordinary = True

    def parameters_of(self, layer: nn.Module) -> list[str]:
        return list(own_parameters(layer))
