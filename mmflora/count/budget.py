"""Which rank of a method comes nearest to a budget of parameters."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from mmengine.config import Config

from mmflora.adapters.hf_peft import config_class
from mmflora.config.walk import FrozenPart, frozen_parts
from mmflora.registry import ADAPTERS

from .parameters import build_on_meta, count_model

RANK_NAMES = ('rank', 'r')
"""How methods call their rank: mmflora's own, and huggingface/peft's."""


@dataclass(frozen=True)
class RankChoice:
    """The rank nearest to a budget, with its neighbors.

    Attributes:
        method: The method's name.
        budget: The wanted number of parameters.
        rank: The rank whose number comes nearest.
        counts: The parameters that the method trains in the backbone, by
            rank: of the nearest one and of those beside it.
    """

    method: str
    budget: float
    rank: int
    counts: dict[int, int]

    def __str__(self) -> str:
        """Return a line for each rank, the nearest one marked."""
        lines = [
            f'{self.method}: rank {self.rank} comes nearest to '
            f'{self.budget:,.0f} parameters in the backbone'
        ]
        width = len(f'{max(self.counts.values()):,}')
        for rank, count in sorted(self.counts.items()):
            off = 100 * (count / self.budget - 1)
            mark = '*' if rank == self.rank else ' '
            lines.append(
                f'{mark} rank {rank:>5} {count:>{width},} {off:+.2f} %'
            )
        return '\n'.join(lines)


def rank_for_budget(cfg: Config, budget: float) -> RankChoice:
    """Search the rank whose parameters come nearest to a budget.

    What counts is what the method trains in the backbone; neck, heads and
    the backbone's new parameters do not depend on it.  Ranks that `targets`
    sets for some layers stay as they are.

    Args:
        cfg: A config with one adapted backbone, whose method has a rank.
        budget: The wanted number of parameters.

    Raises:
        ValueError: If there is no such backbone, its method has no rank, or
            it accepts no rank at all.
    """
    part, adapter = _adapter(cfg)

    @cache
    def count(rank: int) -> int:
        return count_model(
            build_on_meta(with_rank(cfg, rank), part.owner)
        ).method

    above = _first_above(count, budget)
    near = [rank for rank in (above - 1, above) if _fits(count, rank)]
    best = min(near, key=lambda rank: abs(count(rank) - budget))
    around = [best - 1, best, best + 1]
    counts = {rank: count(rank) for rank in around if _fits(count, rank)}
    return RankChoice(str(adapter['type']), budget, best, counts)


def with_rank(cfg: Config, rank: int) -> Config:
    """Return a config whose method has another rank.

    Args:
        cfg: As for :func:`rank_for_budget`; it is not changed.
        rank: The rank.

    Raises:
        ValueError: As :func:`rank_for_budget`.
    """
    part, adapter = _adapter(cfg)
    changed = copy.deepcopy(cfg)
    changed.merge_from_dict(
        {f'{part.place}.adapter.{_rank_name(adapter)}': rank}
    )
    return changed


def _adapter(cfg: Config) -> tuple[FrozenPart, dict[str, Any]]:
    """Return the one frozen part with an adapter, and its adapter."""
    found = [
        (part, adapter)
        for part in frozen_parts(cfg)
        if (adapter := part.settings.get('adapter'))
    ]
    if len(found) != 1:
        raise ValueError(
            f"--budget: '{cfg.filename}' has {len(found)} frozen parts with "
            'an adapter; a rank is searched for exactly one. Give a config of '
            'a method with a rank, such as one of configs/lora.'
        )
    return found[0]


def _rank_name(adapter: dict[str, Any]) -> str:
    kind = adapter['type']
    method = ADAPTERS.get(kind) if isinstance(kind, str) else kind
    known = set(adapter)
    if method is not None:
        known |= set(inspect.signature(method).parameters)
    if 'peft_type' in adapter:
        # The options are those of peft's own configuration of the method.
        known = {
            field.name for field in fields(config_class(adapter['peft_type']))
        }
    for name in RANK_NAMES:
        if name in known:
            return name
    raise ValueError(
        f'--budget: {kind} has no rank that could be searched (its options: '
        f'{", ".join(sorted(known - {"type", "weight"})) or "none"}). Give a '
        'config of a method with one.'
    )


def _fits(count: Callable[[int], int], rank: int) -> bool:
    """Return whether the method takes a rank for all of its layers."""
    if rank < 1:
        return False
    try:
        count(rank)
    except ValueError:
        return False
    return True


def _first_above(count: Callable[[int], int], budget: float) -> int:
    """Return the first rank that reaches the budget, or cannot be taken.

    Counts grow with the rank, until every mode of every weight is exhausted.
    """
    count(1)  # An error that no rank can fix shows here.
    low, high, reached = 0, 1, -1
    while _fits(count, high) and reached < count(high) < budget:
        low, reached = high, count(high)
        high *= 2
    if _fits(count, high) and count(high) == reached:
        budget = reached  # exhausted: the smallest rank with all of it
        low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(count, middle) and count(middle) < budget:
            low = middle
        else:
            high = middle
    return high
