"""BitFit: only biases train."""

from torch import nn

from mmflora.registry import ADAPTERS

from ..tuning import Tuning, own_parameters


@ADAPTERS.register_module()
class BitFit(Tuning):
    """Trains every bias, those of norms included.

    Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for
    Transformer-based Masked Language-models" (2022).  A bias is a vector
    whose name ends with ``bias``: ``in_proj_bias`` counts, a table of
    relative positions does not.  The shift of ConvNeXt-V2's response norm
    counts too; to leave it out, as code that goes by FAIR's names does
    (``beta``), set ``exclude=r'.*[.]grn'``.

    Example:
        >>> adapter = dict(type='BitFit')
    """

    paper = 'Ben Zaken et al., 2022, arXiv:2106.10199'

    def parameters_of(self, layer: nn.Module) -> list[str]:
        return [
            name
            for name, parameter in own_parameters(layer).items()
            if name.endswith('bias') and parameter.dim() == 1
        ]
