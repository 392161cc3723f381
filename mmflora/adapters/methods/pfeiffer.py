"""Pfeiffer's bottleneck adapters."""

from torch import nn

from mmflora.registry import ADAPTERS

from .houlsby import Houlsby


@ADAPTERS.register_module()
class Pfeiffer(Houlsby):
    """One bottleneck per block, behind the MLP: h + u(h).

    Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for
    Transfer Learning" (2021), appendix: the best of the places that they
    searched, with half the parameters of Houlsby's.

    Args:
        block: See :class:`BlockAdapter`, as for all that follow.
        width: Width of the bottleneck.
        activation: Its activation.
        scale: Factor on its output.
        places: Names of the blocks.

    Example:
        >>> adapter = dict(type='Pfeiffer', width=64)
    """

    paper = 'Pfeiffer et al., 2021, arXiv:2005.00247'
    places = r'(.*\.)?(mlp|ffn)'

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'relu',
        scale: float = 1.0,
        places: str | None = None,
    ) -> None:
        super().__init__(block, width, activation, scale, places)
