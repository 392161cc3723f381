"""Pfeiffer's bottleneck adapters."""

from torch import Tensor

from mmflora.registry import ADAPTERS

from ..bottleneck import NestedBottleneck


@ADAPTERS.register_module()
class Pfeiffer(NestedBottleneck):
    """One bottleneck per block, behind the MLP: h + u(h).

    Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for
    Transfer Learning" (2021), appendix: the best of the places that they
    searched, with half the parameters of Houlsby's.

    Example:
        >>> adapter = dict(type='Pfeiffer', width=64)
        >>> adapter = dict(type='Pfeiffer', width=64, widths=[0, 16, 64])
    """

    paper = 'Pfeiffer et al., 2021, arXiv:2005.00247'
    places = r'(.*\.)?(mlp|ffn)'

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return h + u(h) for the block's output h."""
        return self.behind(output)
