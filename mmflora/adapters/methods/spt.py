"""SPT: the data decide which weights train as a whole, and which entries."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..calibrated import CalibratedAdapter
from ..entries import Entries
from ..precision import full_precision
from ..settings import check_count, check_factor
from ..sparse import SparseAdapter, checked_count

_FACTORS = -1


@ADAPTERS.register_module()
class SPT(CalibratedAdapter, SparseAdapter):
    """LoRA for weights with many sensitive entries, else these entries alone.

    He et al., "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning"
    (ICCV 2023), SPT-LoRA, with the rule of the authors' release.  The
    sensitivity of an entry is its squared gradient, averaged over the batches
    of the calibration: to the first order, what a step in it alone gains.  Of
    all layers together, the τ most sensitive entries count.  A weight that has
    at least p / ``ratio`` of them trains by LoRA of p parameters, ΔW = B A;
    any other by its own ones of the τ entries.

    The number of values is p in every layer, whatever is chosen, as a model
    for a test is built before it is known; entries never need so many, and
    what is left over does not train.  The log says how many do.  Where LoRA
    would have no fewer parameters than the weight, entries train in any case.

    It needs ``calibration`` beside ``adapter``.

    Args:
        weight: The frozen weight.
        rank: The rank of LoRA, clipped to the weight's sides.
        density: τ, as a part of the entries of all layers.
        ratio: The authors' α: at least 1.
        dropout: See :class:`Adapter`.

    Attributes:
        used: How many entries train, -1 for LoRA.

    Raises:
        TypeError: If ``density`` or ``ratio`` is no number.
        ValueError: If the rank is below 1 or no integer, ``density`` not in
            (0, 1], or ``ratio`` below 1.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='SPT', rank=8, density=0.005),
        ...     calibration=dict(batches=8),
        ... )
    """

    paper = 'He et al., 2023, arXiv:2303.08566'
    used: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        density: float = 0.005,
        ratio: float = 5.0,
        dropout: float = 0.0,
    ) -> None:
        size = weight.numel()
        out, columns = len(weight), size // max(1, len(weight))
        self.rank = min(check_count('SPT', 'rank', rank), out, columns)
        if check_factor('SPT', 'ratio', ratio) < 1:
            raise ValueError(
                'SPT: `ratio` is at least 1, so that entries take no more '
                f'values than LoRA, got ratio={ratio!r}.'
            )
        self.total = checked_count('SPT', size, density)
        self.density, self.ratio = float(density), float(ratio)
        factors = self.rank * (out + columns)
        self.may_have_factors = factors < size
        super().__init__(weight, budget=min(factors, size), dropout=dropout)
        used = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self.register_buffer('used', used)
        self.number = 0
        self.ask_for('sensitivity', weight)

    @classmethod
    def build_all(
        cls, layers: Mapping[str, nn.Module], **options: Any
    ) -> dict[str, Any]:
        """Build the adapters of layers that share τ."""
        built = super().build_all(layers, **options)
        adapters = [one for one in built.values() if isinstance(one, cls)]
        entries = sum(one.weight_shape.numel() for one in adapters)
        for one in adapters:
            one.total = max(1, int(one.density * entries))
        return built

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Remember the most sensitive entries until all layers have theirs.

        Where they are is of use to layers that train by entries alone, and
        these have no more of them than p / ``ratio``.
        """
        count = min(self.total, statistic.numel())
        found = statistic.flatten().topk(count)
        most = self.count
        if self.may_have_factors:
            most = math.ceil(self.count / self.ratio)
        self.sensitive = found.values, found.indices[:most].clone()

    @classmethod
    def share_out(cls, adapters: Sequence[Any]) -> None:
        """Find the τ most sensitive entries of layers of equal settings."""
        groups: dict[Any, list[SPT]] = {}
        for one in adapters:
            key = one.total, one.density, one.ratio
            groups.setdefault(key, []).append(one)
        for (total, *_), group in groups.items():
            values = torch.cat([one.sensitive[0] for one in group])
            owners = torch.cat(
                [
                    torch.full_like(one.sensitive[0], number, dtype=torch.int)
                    for number, one in enumerate(group)
                ]
            )
            most = values.topk(min(total, len(values))).indices
            counts = owners[most].bincount(minlength=len(group)).tolist()
            for one, count in zip(group, counts, strict=True):
                one.begin_with(count)
            factors = sum(one.number == _FACTORS for one in group)
            trained = sum(one.trained() for one in group)
            print_log(
                f'SPT: of {len(group)} layers, {factors} train by LoRA, '
                f'{len(group) - factors} by single entries; {trained} values '
                'train.',
                logger='current',
                level=logging.INFO,
            )

    @torch.no_grad()
    def begin_with(self, count: int) -> None:
        """Start, with so many of the sensitive entries in this layer."""
        _, sensitive = self.__dict__.pop('sensitive')
        nn.init.zeros_(self.values)
        self.places.zero_()
        self.number = count
        if self.may_have_factors and count >= self.count / self.ratio:
            self.number = _FACTORS
            nn.init.kaiming_uniform_(self.factors().right, a=math.sqrt(5))
        else:
            places = sensitive[:count].sort().values
            self.places[:count] = places
        self.used.fill_(self.number)

    def trained(self) -> int:
        """Return how many values train."""
        return self.count if self.number == _FACTORS else self.number

    def factors(self) -> LowRank:
        """Return the values as B and A."""
        shape, split = self.weight_shape, self.rank * self.weight_shape[0]
        return LowRank(
            self.values[:split].view(-1, self.rank),
            self.values[split:].view(self.rank, *shape[1:]),
        )

    def low_rank(self) -> LowRank | None:
        """Return B and A, where the weight trains by them."""
        if self.number != _FACTORS:
            return None
        with full_precision(self.values.device.type):
            return self.factors()

    def entries(self) -> Entries | None:
        """Return the entries, where the weight trains by them."""
        if self.number == _FACTORS:
            return None
        return Entries(self.places[: self.number], self.values[: self.number])

    def delta_weight(self) -> Tensor:
        kind = Adapter if self.number == _FACTORS else SparseAdapter
        return kind.delta_weight(self)

    def adapted_weight(self, weight: Tensor) -> Tensor:
        kind = Adapter if self.number == _FACTORS else SparseAdapter
        return kind.adapted_weight(self, weight)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if not self.used.is_meta:
            self.number = int(self.used)

    @classmethod
    def has_sums(cls) -> bool:
        """Return no: which values are meant differs by layer."""
        return False

    def meaning(self) -> dict[str, Any]:
        return dict(rank=self.rank, entries=self.count)
