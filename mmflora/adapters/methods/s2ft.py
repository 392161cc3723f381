"""S²FT: few whole channels of a weight train."""

from typing import Any

import torch
from torch import Tensor

from mmflora.registry import ADAPTERS

from ..settings import check_choice, check_count
from ..sparse import SparseAdapter

SIDES = ('rows', 'columns')
CHOICES = ('random', 'largest', 'smallest')


@ADAPTERS.register_module()
class S2FT(SparseAdapter):
    r"""Few whole rows or columns train: chosen sparsely, computed densely.

    Yang et al., "S²FT: Efficient, Scalable and Generalizable LLM Fine-tuning
    by Structured Sparsity" (NeurIPS 2024).  The gradient is the product of
    the chosen channels alone.  The paper brings these together by permuting
    the weights on both sides of a layer; the update is the same without it.
    In a feed-forward network it trains rows of the first layer and columns of
    the second, in attention rows of the values and columns of the output, so
    that ``targets`` set ``side``.  Heads are blocks of channels.  The paper
    draws at random, or chooses by weights, activations or gradients; here
    without data.

    Args:
        weight: The frozen weight.
        density: The part of the channels that trains, in (0, 1].
        budget: Instead, how many channels (or blocks of them) train.
        side: ``'rows'`` are output channels (of a transposed convolution
            input channels), ``'columns'`` the others, those of one group if
            there are several.
        choose: ``'random'``, or the channels whose norm is ``'largest'`` or
            ``'smallest'``.
        block: How many neighboring channels are chosen together: those of a
            head.
        dropout: See :class:`Adapter`.

    Raises:
        ValueError: If a setting is out of its range, or blocks do not divide
            the channels.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='S2FT', density=0.05),
        ...     targets={r'.*mlp\.fc2': dict(side='columns'), '.*': {}},
        ... )
    """

    paper = 'Yang et al., 2024, arXiv:2412.06289'

    def __init__(
        self,
        weight: Tensor,
        density: float = 0.05,
        budget: int | None = None,
        side: str = 'rows',
        choose: str = 'random',
        block: int = 1,
        dropout: float = 0.0,
    ) -> None:
        self.side = check_choice('S2FT', 'side', side, SIDES)
        self.by = check_choice('S2FT', 'choose', choose, CHOICES)
        self.block = check_count('S2FT', 'block', block)
        self.dim = SIDES.index(side)
        super().__init__(weight, density, budget, dropout)
        self.begin(weight)

    def counted(self, size: int, density: Any, budget: Any) -> int:
        if size % self.block:
            raise ValueError(
                f'S2FT: block={self.block} does not divide the {size} '
                f'{self.side} of the weight. Set `block` to the channels of a '
                'head, and to 1 for other layers through `targets`.'
            )
        return self.block * super().counted(
            size // self.block, density, budget
        )

    def scores(self, weight: Tensor) -> Tensor:
        """Return a number for each block of channels."""
        rows = weight.transpose(0, self.dim or 0).flatten(1)
        if self.by == 'random':
            scores = torch.rand_like(rows[:, 0])
        else:
            scores = rows.square().sum(1)
        blocks = scores.view(-1, self.block).sum(1)
        return -blocks if self.by == 'smallest' else blocks

    @torch.no_grad()
    def choose(self, scores: Tensor) -> None:
        """Take the channels of the blocks with the largest scores."""
        super().choose(scores.repeat_interleave(self.block))

    def meaning(self) -> dict[str, Any]:
        return dict(channels=self.count, side=self.side)
