"""SuperLoRA: the updates of groups of layers, folded into tensors."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..bases import spread
from ..functional import tucker_to_weight
from ..precision import full_precision
from ..settings import check_count, check_factor, check_share
from ..shared import SharingAdapter

HIGHEST_ORDER = 8


class FoldedTensor(nn.Module):
    """A Tucker tensor into which the updates of a group are folded.

    The core starts at zero, the factors as Gaussians.

    Args:
        like: An adapter of the group.
        size: How many entries are needed; the sides are about equal, and the
            tensor has so many or a few more.
    """

    def __init__(self, like: 'SuperLoRA', size: int) -> None:
        super().__init__()
        side = round(size ** (1 / like.order))
        side += side**like.order < size
        others = (side,) * (like.order - 1)
        sides = (-(-size // math.prod(others)), *others)
        ranks = [min(like.rank, one) for one in sides]
        self.core = like.parameter_like(like.sample, *ranks)
        nn.init.zeros_(self.core)
        self.factors = nn.ParameterList()
        for one, rank in zip(sides, ranks, strict=True):
            factor = like.parameter_like(like.sample, one, rank)
            self.factors.append(nn.init.normal_(factor, std=one**-0.5))

    def entries(self, start: int, count: int) -> Tensor:
        """Return some entries in their order, from the rows that have them."""
        first, *others = self.factors
        stride = math.prod(len(factor) for factor in others)
        above = start // stride
        rows = first[above : -(-(start + count) // stride)]
        tensor = tucker_to_weight(self.core, [rows, *others])
        return tensor.flatten().narrow(0, start - above * stride, count)


@ADAPTERS.register_module()
class SuperLoRA(SharingAdapter):
    """The ΔW of a group of layers in one row, folded into a Tucker tensor.

    Chen et al., "SuperLoRA: Parameter-Efficient Unified Adaptation of
    Multi-Layer Attention Modules" (2024): ΔW_group = F(C ×1 A_1 … ×M A_M),
    where the updates of a group of layers are one vector, folded into a
    tensor of M about equal sides.  The variants of the abstract:

    - grouping: ``groups`` runs of layers, of about equal numbers of weights;
    - folding, or reshaping: ``order`` M; 2 gives matrices, nearly square
      whatever the layers' shapes are, and more give tensors;
    - projecting: the tensor holds the share ``projection`` of the entries, and
      a fixed F spreads them.  The paper's F is a random, fast transform of the
      whole group.  Here it is a sparse one within each layer, so that a layer
      needs no more of the tensor than its own part; see :func:`spread`.

    Here a group ends with a layer, and matrices have a core too.  Products of
    several such tensors (the paper's Kronecker splits) are left out.  A kernel
    is read in memory order.

    Args:
        weight: The frozen weight.
        rank: The rank of each mode, clipped to its side.
        order: M, the order of the tensors, 2 to 8.
        groups: How many groups.
        projection: The share of the entries that the tensors hold.
        scale: The factor s on all updates.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a setting is out of its range.

    Example:
        >>> adapter = dict(type='SuperLoRA', rank=16, order=3, groups=4)
        >>> projected = dict(type='SuperLoRA', rank=8, projection=0.1)
    """

    paper = 'Chen et al., 2024, arXiv:2403.11887'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        order: int = 3,
        groups: int = 1,
        projection: float = 1.0,
        scale: float = 1.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        self.rank = check_count('SuperLoRA', 'rank', rank)
        self.order = check_count('SuperLoRA', 'order', order)
        if not 2 <= order <= HIGHEST_ORDER:
            raise ValueError(
                f'SuperLoRA: `order` is an integer from 2 to {HIGHEST_ORDER}, '
                f'got order={order}.'
            )
        self.groups = check_count('SuperLoRA', 'groups', groups)
        self.projection = check_share('SuperLoRA', 'projection', projection)
        self.scale = check_factor('SuperLoRA', 'scale', scale)
        self.sample = self.parameter_like(weight, 0).data
        self.count = math.ceil(projection * math.prod(weight.shape))
        self.group, self.start = '0', 0

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        """Return the tensors of all groups; each layer gets its place."""
        total = sum(one.count for one in adapters)
        sizes: dict[str, int] = {}
        before = 0
        for one in adapters:
            middle = before + one.count / 2
            one.group = str(int(middle * one.groups / total))
            one.start = sizes.get(one.group, 0)
            sizes[one.group] = one.start + one.count
            before += one.count
        first = adapters[0]
        return nn.ModuleDict(
            {group: FoldedTensor(first, size) for group, size in sizes.items()}
        )

    def place(self) -> tuple[int, int]:
        """Return the layer's group, and where its part of it starts."""
        return int(self.group), self.start

    def delta_weight(self) -> Tensor:
        """Return the layer's part of its group, in the weight's shape."""
        with full_precision(self.sample.device.type):
            tensor = self.shared[self.group]
            values = self.scale * tensor.entries(self.start, self.count)
            if self.projection != 1:
                values = spread(values, math.prod(self.weight_shape))
            return values.view(self.weight_shape)

    def core_parameters(self) -> Iterator[nn.Parameter]:
        for tensor in self.shared.values():
            yield tensor.core

    def meaning(self) -> dict[str, Any]:
        names = ('rank', 'order', 'groups', 'projection', 'scale')
        return {name: getattr(self, name) for name in names}
