"""LoCA: few coefficients of the cosine transform, at learnt places."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..bases import cosine_rows
from ..precision import full_precision
from ..settings import check_count, check_factor


@ADAPTERS.register_module()
class LoCA(Adapter):
    """ΔW = s · iDCT of few coefficients, whose places are learnt too.

    Du et al., "LoCA: Location-Aware Cosine Adaptation for Parameter-Efficient
    Fine-Tuning" (ICLR 2025), equation 1: ΔW = s · Cᵀ S(a, l) D with
    coefficients a, zero at first, at places l, uniform at first.  A kernel's
    transform is over all its modes, so that a coefficient has a frequency
    along each of them.

    The gradient of a place is the paper's central difference, without the
    release's limit of 1.  The release trains coefficients for 10 steps, then
    places for 20, and so on, and fixes the places after a tenth of the
    training; here both train at each step.  The published learning rate of
    places is 1e-4: ``custom_keys={'adapter.places': dict(lr_mult=0.1)}`` of
    the optimizer's ``paramwise_cfg`` sets one apart.

    Args:
        weight: The frozen weight.
        frequencies: How many coefficients.
        scale: The factor s.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a setting is out of its range.

    Example:
        >>> adapter = dict(type='LoCA', frequencies=256)
    """

    paper = 'Du et al., 2025, arXiv:2502.06820'

    def __init__(
        self,
        weight: Tensor,
        frequencies: int = 256,
        scale: float = 1.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        count = check_count('LoCA', 'frequencies', frequencies)
        self.scale = check_factor('LoCA', 'scale', scale)
        self.coefficients = self.parameter_like(weight, count)
        self.places = self.parameter_like(weight, weight.dim(), count)
        nn.init.zeros_(self.coefficients)
        nn.init.uniform_(self.places)

    def low_rank(self) -> LowRank:
        """Return the update as a term for each coefficient."""
        with full_precision(self.places.device.type):
            out, *others = map(cosine_rows, self.places, self.weight_shape)
            right = others[0]
            for rows in others[1:]:
                right = torch.einsum('n...,nk->n...k', right, rows)
            return LowRank(out.T * (self.scale * self.coefficients), right)

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.coefficients

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the places: zero is a frequency like any other."""
        yield self.places

    def meaning(self) -> dict[str, Any]:
        return dict(frequencies=len(self.coefficients), scale=self.scale)
