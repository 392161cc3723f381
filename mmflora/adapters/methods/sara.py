"""SaRA: the smallest entries of a weight are put to use."""

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..decompositions import polar_factor
from ..entries import Entries, entries_of, entries_to_weight
from ..layer_weights import frozen_weight
from ..precision import full_precision
from ..sparse import SparseAdapter
from ..stored import Tensors


@ADAPTERS.register_module()
class SaRA(SparseAdapter):
    """The entries of smallest size train, as the base makes no use of them.

    Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with
    Progressive Sparse Low-Rank Adaptation" (ICLR 2025), with the authors'
    release.  The paper trains all entries below one threshold; here each
    weight trains as large a part of its entries, and its threshold θ is the
    largest of them.  ``mmflora.SaRAHook`` does what concerns the training:

    - the nuclear norm of the masked weight, λ ‖M ⊙ (W + ΔW)‖_*, counts as a
      part of the loss (:meth:`penalty_gradient`);
    - once, in the middle, entries that have grown above θ are kept as they
      are, and those still below go on (:meth:`settle`).

    Without the hook, the smallest entries train and nothing else is done.

    Args:
        weight: The frozen weight.
        density: See :class:`SparseAdapter`.
        budget: See :class:`SparseAdapter`.
        dropout: See :class:`Adapter`.

    Attributes:
        settled: What is kept of each value, shape ``(k,)``.
        active: Which values train, shape ``(k,)``.

    Example:
        >>> adapter = dict(type='SaRA', density=0.1)
        >>> custom_hooks = [dict(type='mmflora.SaRAHook')]
    """

    paper = 'Hu et al., 2025, arXiv:2409.06633'
    settled: Tensor
    active: Tensor

    def __init__(
        self,
        weight: Tensor,
        density: float = 0.1,
        budget: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(weight, density, budget, dropout)
        self.register_buffer('settled', torch.zeros_like(self.values.data))
        active = torch.ones_like(self.values, dtype=torch.bool)
        self.register_buffer('active', active)
        self.begin(weight)

    def scores(self, weight: Tensor) -> Tensor:
        """Return the sizes of the entries, negative."""
        return -weight.abs()

    def choose(self, scores: Tensor) -> None:
        super().choose(scores)
        self.settled.zero_()
        self.active.fill_(True)

    def current(self) -> Tensor:
        """Return what is settled, and the values that still train."""
        return self.settled + self.active * self.values

    @torch.no_grad()
    def settle(self, layer: nn.Module) -> int:
        """Keep the entries that have become effective as they are.

        These are those whose |w + Δw| exceeds θ = max |w| over the places.

        Args:
            layer: The adapted layer.

        Returns:
            How many go on.
        """
        weight = frozen_weight(layer).to(self.values.dtype)
        before = entries_of(weight, self.places, None)
        now = before + self.current()
        effective = (now.abs() > before.abs().max()) & self.active
        self.settled[effective] = self.current()[effective]
        self.active &= ~effective
        return int(self.active.sum())

    @torch.no_grad()
    def penalty_gradient(self, layer: nn.Module) -> Tensor:
        """Return the gradient of ‖M ⊙ (W + ΔW)‖_* by the values.

        With the decomposition U S Vᵀ of the masked weight it is U Vᵀ, at the
        entries that train.  Of a kernel, ``(out, in / groups · kernel)`` is
        the matrix.

        Args:
            layer: The adapted layer.

        Returns:
            Shape ``(k,)``.
        """
        weight = frozen_weight(layer).to(self.values.dtype)
        with full_precision(weight.device.type):
            masked = entries_of(weight, self.places, None) + self.current()
            entries = Entries(self.places, masked * self.active)
            matrix = entries_to_weight(entries, self.weight_shape).flatten(1)
            polar = polar_factor(matrix)
            return entries_of(polar, self.places, None) * self.active

    @classmethod
    def summed_rest(cls, tensors: Tensors, count: int) -> dict[str, Tensor]:
        """Return the state of an adapter in which nothing is settled."""
        return dict(
            shape=tensors['shape'],
            settled=torch.zeros(count),
            active=torch.ones(count, dtype=torch.bool),
        )
