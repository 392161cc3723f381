"""LIFT: the principal weights train."""

import torch
from torch import Tensor

from mmflora.registry import ADAPTERS

from ..decompositions import leading_svd
from ..settings import check_count, check_iterations
from ..sparse import SparseAdapter


@ADAPTERS.register_module()
class LIFT(SparseAdapter):
    """The entries train that are largest in the weight's rank-r part.

    Liu et al., "LIFT the Veil for the Truth: Principal Weights Emerge after
    Rank Reduction for Reasoning-Focused Supervised Fine-Tuning" (2025): of
    W = U S Vᵀ the r leading components count, W' = U_r S_r V_rᵀ, and the k
    entries of largest |W'| train.  A kernel counts as a matrix,
    ``(out, in / groups · kernel)``.  The places are chosen once; the authors'
    release may choose them again during training, of the weight as it is then.

    Args:
        weight: The frozen weight.
        rank: The rank r, at most that of the weight.
        density: See :class:`SparseAdapter`; the paper trains 5 %.
        budget: See :class:`SparseAdapter`.
        iterations: ``None`` for the exact decomposition, or how many
            iterations approximate it, for large weights.
        dropout: See :class:`Adapter`.

    Example:
        >>> adapter = dict(type='LIFT', rank=128, density=0.05)
    """

    paper = 'Liu et al., 2025, arXiv:2506.00772'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 128,
        density: float = 0.05,
        budget: int | None = None,
        iterations: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(weight, density, budget, dropout)
        self.rank = check_count('LIFT', 'rank', rank)
        self.iterations = check_iterations('LIFT', iterations)
        self.begin(weight)

    def scores(self, weight: Tensor) -> Tensor:
        """Return the sizes of the entries of W'."""
        matrix = weight.flatten(1)
        u, s, vh = leading_svd(matrix, self.rank, self.iterations)
        scores: Tensor = torch.mm(u * s, vh).abs()
        return scores

    def remark(self) -> str:
        shape = self.weight_shape
        least = min(shape[0], shape[1:].numel())
        return f'rank clipped to {least}' if least < self.rank else ''
