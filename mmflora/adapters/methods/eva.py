"""EVA: LoRA on the directions in which a layer's input varies."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..calibrated import CalibratedAdapter
from ..decompositions import leading_directions
from ..layer_statistics import check_patches
from ..settings import check_count, check_factor
from .lora import LoRA


@ADAPTERS.register_module()
class EVA(CalibratedAdapter, LoRA):
    """LoRA whose A starts as the leading right singular vectors of its input.

    Paischer et al., "Parameter Efficient Fine-tuning via Explained Variance
    Adaptation" (2024): with the singular value decomposition U S Vᵀ of the
    vectors x that the weight multiplies, A0 = V[1…r]ᵀ and B0 = 0, so that the
    start is the frozen layer.  For a convolution, x are the patches of its
    input (of all groups together).

    Ranks are shared out among all layers.  A layer may have up to ``rank``
    directions, the paper's ρ r.  Of all of these together, those train that
    explain the largest shares of their layer's variance, σ_j² / Σ σ²; they
    are the ρ-th part, so that a layer has r on average.  ``rho=1`` leaves
    ``rank`` to each layer.  The factor s = alpha / rank is the same
    everywhere.

    A model for a test is built before the ranks are known.  So A and B have
    ``rank`` components in each layer, and counts are of these.  The ones that
    a layer does not get are zero in both factors: their gradient is zero, and
    they stay so.  The log says how many train, and ``tools/adapters.py
    compress`` removes the others from a file.

    V is that of the second moment E[x xᵀ], summed over all batches; the paper
    finds it batch by batch, until it changes no more.  huggingface/peft takes
    the mean of x off first.  Layers whose input meets the weight otherwise
    (transposed convolutions, embeddings, attention) are left out.

    It needs ``calibration`` beside ``adapter``.

    Args:
        weight: The frozen weight.
        rank: The most directions of a layer, the paper's ρ r.
        alpha: s = alpha / rank.
        rho: The paper's ρ, at least 1.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` or ``rho`` is no number.
        ValueError: If the rank is below 1 or no integer, ``alpha`` is zero or
            not finite, or ``rho`` below 1.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='EVA', rank=16, rho=2.0),
        ...     calibration=dict(batches=8),
        ... )
    """

    fixed = ('calibrated',)
    paper = 'Paischer et al., 2024, arXiv:2410.07170'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        alpha: float = 16.0,
        rho: float = 2.0,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        check_count('EVA', 'rank', rank)
        super().__init__(weight, rank, alpha, dropout=dropout, path=path)
        self.rho = check_factor('EVA', 'rho', rho)
        if self.rho < 1:
            raise ValueError(
                'EVA: `rho` is at least 1, where each layer keeps its whole '
                f'rank, got rho={rho!r}.'
            )
        self.ask_for('second moment', weight)

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> LoRA:
        check_patches('EVA', layer)
        return super().for_layer(layer, **options)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Take the leading directions, and note what each explains."""
        directions, self.shares = leading_directions(statistic, len(self.down))
        self.down.copy_(directions.view(self.down.shape))
        nn.init.zeros_(self.up)

    @classmethod
    @torch.no_grad()
    def share_out(cls, adapters: Sequence[Any]) -> None:
        """Keep the directions that explain most, of layers of equal ρ."""
        groups: dict[float, list[EVA]] = {}
        for one in adapters:
            groups.setdefault(one.rho, []).append(one)
        for rho, group in groups.items():
            shares = torch.cat([one.__dict__.pop('shares') for one in group])
            most = shares.argsort(descending=True, stable=True)
            kept = torch.zeros_like(shares)
            kept[most[: max(1, int(len(shares) / rho))]] = 1
            parts = kept.split([len(one.down) for one in group])
            for one, part in zip(group, parts, strict=True):
                one.down[int(part.sum()) :] = 0
            ranks = [int(part.sum()) for part in parts]
            print_log(
                f'EVA: {sum(ranks)} of {len(shares)} directions train, '
                f'{min(ranks)} to {max(ranks)} in each of {len(group)} '
                'layers.',
                logger='current',
                level=logging.INFO,
            )
