"""AdaptFormer: a scaled bottleneck beside the MLP."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..bottleneck import NestedBottleneck


@ADAPTERS.register_module()
class AdaptFormer(NestedBottleneck):
    """A bottleneck parallel to the MLP: MLP(x) + s u(x).

    Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable
    Visual Recognition" (2022), equations 3 and 4.  It reads the MLP's own,
    normed input.

    Args:
        block: The block.
        scale: The paper's s.
        **options: As for :class:`~..bottleneck.NestedBottleneck`.

    Example:
        >>> adapter = dict(type='AdaptFormer', width=64, scale=0.1)
    """

    paper = 'Chen et al., 2022, arXiv:2205.13535'
    places = r'(.*\.)?(mlp|ffn)'

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'relu',
        scale: float = 0.1,
        places: str | None = None,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(block, width, activation, scale, places, widths)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the block's output plus s u(x) of its input x."""
        return output + self.bottleneck(inputs)
