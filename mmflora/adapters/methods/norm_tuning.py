"""Norm tuning: only the scales and shifts of norms train."""

from torch import nn

from mmflora.registry import ADAPTERS

from ..tuning import Tuning, is_norm, own_parameters


@ADAPTERS.register_module()
class NormTuning(Tuning):
    """Trains weight and bias of every norm layer.

    Frankle et al., "Training BatchNorm and Only BatchNorm" (2021), for batch
    norms; here for every kind, ConvNeXt-V2's response norms included.

    Example:
        >>> adapter = dict(type='NormTuning')
    """

    paper = 'Frankle et al., 2021, arXiv:2003.00152'

    def parameters_of(self, layer: nn.Module) -> list[str]:
        return list(own_parameters(layer)) if is_norm(layer) else []
