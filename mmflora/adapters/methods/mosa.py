"""MoSA: AdaptFormer's bottleneck, of which a random part trains at a time."""

from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..bottleneck import Bottleneck
from ..settings import check_count
from .adaptformer import AdaptFormer


@ADAPTERS.register_module()
class MoSA(Bottleneck):
    r"""A bottleneck whose U is cut into parts; each step trains one of them.

    Zhang et al., "MoSA: Mixture of Sparse Adapters for Visual Efficient
    Tuning" (2023).  Every entry of U is in one of n parts of equal size,
    drawn at random.  In training a pass draws a part i (each of several
    processes its own, as with dropout) and computes

        MLP(x) + s (act(x Dᵀ + d) (M_i ⊙ U)ᵀ + u),

    with the mask M_i of the part.  Else the parts are one adapter, the mean
    of them all, (1/n) Σ M_i ⊙ U = U / n: what training computes on average.
    Parameters and cost are AdaptFormer's.

    This follows the authors' code (``SHARE "down"``: D is whole, U is in
    parts).  There each part has a copy of u, and the copies are averaged;
    here u is one.  There Adam moves a part in its own steps alone; here its
    moments go on in between.  A loss of theirs that brings two passes of a
    classifier together belongs to a training loop, and is left out.

    Args:
        block: The block.
        parts: n; with 1 it is AdaptFormer.
        **options: As for :class:`AdaptFormer`.

    Example:
        >>> adapter = dict(type='MoSA', width=64, scale=0.1, parts=4)
    """

    paper = 'Zhang et al., 2023, arXiv:2312.02923'
    places = AdaptFormer.places

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        activation: str = 'gelu',
        scale: float = 0.1,
        parts: int = 4,
        places: str | None = None,
    ) -> None:
        super().__init__(block, width, activation, scale, places)
        self.parts = check_count('MoSA', 'parts', parts)
        if self.parts > self.up.numel():
            raise ValueError(
                f'MoSA: parts={parts}, but U has {self.up.numel()} entries. '
                'Take fewer parts.'
            )

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the block's output plus s u(x) of its input x."""
        return output + self.bottleneck(inputs)

    def part_of(self) -> Tensor:
        """Return the part of each entry of U, in its shape.

        Sizes of parts differ by one at most.  The draw is the same wherever
        the adapter is built, so that no file has to hold it.
        """
        part: Tensor | None = vars(self).get('_part_of')
        if part is None or part.device != self.up.device:
            order = torch.randperm(
                self.up.numel(),
                generator=torch.Generator().manual_seed(0),
                device='cpu',
            )
            part = (order % self.parts).view(self.up.shape)
            vars(self)['_part_of'] = part = part.to(self.up.device)
        return part

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return D, and U of a random part or of all."""
        if not self.training:
            return self.down, self.up / self.parts
        drawn = torch.randint(self.parts, (), device='cpu')
        return self.down, self.up * (self.part_of() == drawn)

    def meaning(self) -> dict[str, Any]:
        return super().meaning() | dict(parts=self.parts)
