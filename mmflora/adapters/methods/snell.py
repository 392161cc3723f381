"""SNELL and SNELLA: sparse updates of two low-rank factors by a kernel."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter
from ..bases import distance_kernel, surviving
from ..precision import full_precision
from ..settings import check_count, check_factor, check_probability
from ..stored import Settings, Tensors


@ADAPTERS.register_module()
class SNELL(Adapter):
    """ΔW = the largest entries of κ(B, A), a kernel of low-rank factors.

    Shen et al., "Expanding Sparse Tuning for Low Memory Usage" (NeurIPS
    2024), with the authors' release: the entry (i, j) is
    w = s (‖b_1i − a_1j‖ − ‖b_2i − a_2j‖), with rows b and a of r / 2 numbers
    each, so that the rank of the matrix is not bounded by r.  Those entries
    survive whose size is above that of the share ``sparsity`` of the layer's;
    they become w |w|, with |w| a constant to the gradient.  So no places are
    stored.

    As there, the factors start at random, and the update starts small but not
    at zero, where it would have no gradient.  A kernel counts as a matrix
    ``(out, in / groups · kernel)``: each of its positions has rows a of its
    own.

    Args:
        weight: The frozen weight.
        rank: The rank r, even.
        sparsity: The share of the entries that are zero, in [0, 1).
        scale: The factor s.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a setting is out of its range.

    Example:
        >>> adapter = dict(type='SNELL', rank=16, sparsity=0.9)
    """

    paper = 'Shen et al., 2024, arXiv:2411.01800'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        sparsity: float = 0.9,
        scale: float = 0.1,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        kind = type(self).__name__
        self.rank = check_count(kind, 'rank', rank)
        if rank % 2:
            raise ValueError(
                f'{kind}: `rank` is even, as two distances share it, got '
                f'rank={rank}.'
            )
        self.sparsity = check_probability(kind, 'sparsity', sparsity)
        self.scale = check_factor(kind, 'scale', scale)
        out, *inputs = weight.shape
        self.left = self.parameter_like(weight, 2, out, rank // 2)
        self.right = self.parameter_like(weight, 2, *inputs, rank // 2)
        for factor in (self.left, self.right):
            bound = (factor[0].numel()) ** -0.5
            nn.init.uniform_(factor, -bound, bound)

    def share_of_zeros(self) -> float:
        """Return the share of the entries that do not survive."""
        return self.sparsity

    def delta_weight(self) -> Tensor:
        """Return the surviving entries, in the weight's shape."""
        with full_precision(self.left.device.type):
            right = self.right.flatten(1, -2)
            whole = self.scale * distance_kernel(self.left, right)
            kept = surviving(whole, self.share_of_zeros())
            return kept.view(self.weight_shape)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield both factors: the distance to zeros is not zero."""
        yield from (self.left, self.right)

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        return tensors['left'].shape[1], *tensors['right'].shape[1:-1]

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, sparsity=self.sparsity, scale=self.scale)


@ADAPTERS.register_module()
class SNELLA(SNELL):
    """SNELL whose layers compete for the entries that survive.

    Shen et al., "Kernelized Sparse Fine-Tuning with Bi-level Parameter
    Competition for Vision Models" (2025).  ``SNELLAHook`` gives each layer
    its share during the training, by its importance; ``sparsity`` is that of
    all layers together at the end.  The adapter's state holds the share of
    its own layer, which is ``sparsity`` where no hook changes it.

    Args:
        weight: The frozen weight.
        **options: As for :class:`SNELL`.

    Example:
        >>> adapter = dict(type='SNELLA', rank=16, sparsity=0.9)
        >>> custom_hooks = [dict(type='mmflora.SNELLAHook')]
    """

    paper = 'Shen et al., 2025, arXiv:2510.24037'
    zeros: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        sparsity: float = 0.9,
        scale: float = 0.1,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, rank, sparsity, scale, dropout, path)
        zeros = self.parameter_like(weight, 1).data.fill_(sparsity)
        self.register_buffer('zeros', zeros)

    def share_of_zeros(self) -> float:
        return self.sparsity if self.zeros.is_meta else float(self.zeros)
