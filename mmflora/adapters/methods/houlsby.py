"""Houlsby's bottleneck adapters."""

from collections.abc import Sequence

from torch import nn

from mmflora.registry import ADAPTERS

from .pfeiffer import Pfeiffer


@ADAPTERS.register_module()
class Houlsby(Pfeiffer):
    """Bottlenecks behind attention and behind the MLP: h + u(h).

    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019),
    section 2.  The start is exactly the identity, not nearly.  In blocks whose
    branch adds the shortcut itself (those of mmcv) it stands behind the sum.

    Args:
        block: The block; a ConvNeXt has MLPs alone.
        **options: As for :class:`~..bottleneck.NestedBottleneck`.

    Example:
        >>> adapter = dict(type='Houlsby', width=64)
    """

    paper = 'Houlsby et al., 2019, arXiv:1902.00751'
    places = r'(.*\.)?(attn|attention|self_attn|mlp|ffn)'

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'gelu',
        scale: float = 1.0,
        places: str | None = None,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(block, width, activation, scale, places, widths)
