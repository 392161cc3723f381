"""MatryoshkaLoRA: nested ranks, of which every prefix is an adapter."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmflora.registry import ADAPTERS

from ..base import Adapter, LowRank
from ..precision import full_precision
from ..sampled import nested_ranks
from ..settings import check_choice
from ..stored import Settings, Tensors
from .lora import LoRA

PREFIXES = ('plain', 'weighted')


def nested_weights(
    ranks: Sequence[int], factors: Sequence[float], size: int
) -> list[float]:
    """Return the diagonal of P, ``P_i = Σ s_r`` over the ranks r ≥ i.

    Then ``B P A = Σ s_r B[:, :r] A[:r]``, the sum of all prefixes.

    Args:
        ranks: The ranks r.
        factors: s_r for each.
        size: How many components there are, i = 1, …
    """
    pairs = list(zip(ranks, factors, strict=True))
    return [sum(s for r, s in pairs if r > i) for i in range(size)]


@ADAPTERS.register_module()
class MatryoshkaLoRA(LoRA):
    """ΔW = B P A, the sum of LoRAs s_r B[:, :r] A[:r] of several ranks r.

    Modoranu et al., "MatryoshkaLoRA: Learning Accurate Hierarchical Low-Rank
    Representations for LLM Fine-Tuning" (2026), with the authors' release
    (algorithm 1 and the scales of their runs): P is a fixed diagonal,
    ``P_i = Σ s_r`` over the ranks r ≥ i, with s_r = alpha / √r.

    Training, tests and merges compute B P A.  ``tools/adapters.py truncate
    --rank r`` makes a LoRA of each prefix: as in the paper
    ``s_r B[:, :r] A[:r]``, without P; or, with ``prefixes='weighted'``, the
    leading part of B P A.  Convolutions have LoRA's spatial form.

    Args:
        weight: The frozen weight.
        rank: The highest rank.
        alpha: s_r = alpha / √r.
        ranks: The ranks of the prefixes; by default powers of two, and
            ``rank``.
        rslora: Divide by √r; else by r.
        prefixes: ``'plain'`` or ``'weighted'``, see above.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` is no number or ``rslora`` no flag.
        ValueError: If a rank is no integer of at least 1, ``ranks`` lack the
            highest, ``alpha`` is zero or not finite, or ``prefixes`` unknown.

    Example:
        >>> adapter = dict(type='MatryoshkaLoRA', rank=16)
    """

    paper = 'Modoranu et al., 2026, arXiv:2605.07850'
    products = ()  # a sum of two has no such P

    def __init__(
        self,
        weight: Tensor,
        rank: int = 16,
        alpha: float = 1.0,
        ranks: Sequence[int] | None = None,
        rslora: bool = True,
        prefixes: str = 'plain',
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        kind = type(self).__name__
        self_ranks = nested_ranks(kind, rank, ranks)
        super().__init__(
            weight, rank, alpha, rslora=rslora, dropout=dropout, path=path
        )
        check_choice(kind, 'prefixes', prefixes, PREFIXES)
        self.ranks, self.root = self_ranks, rslora
        factors = [self.scale_at(one) for one in self_ranks]
        self.weights = nested_weights(self_ranks, factors, len(self.down))

    def scale_at(self, rank: int) -> float:
        """Return s_r."""
        return self.alpha / (rank**0.5 if self.root else rank)

    def squeezes(self) -> bool:
        return False

    def delta_weight(self) -> Tensor:
        """Return B P A, in the weight's shape."""
        return Adapter.delta_weight(self)

    def low_rank(self) -> LowRank:
        """Return L = B P and R = A."""
        with full_precision(self.up.device.type):
            return LowRank(
                self.up * self.up.new_tensor(self.weights), self.down
            )

    @classmethod
    def prefix_method(cls) -> type[LoRA]:
        return LoRA

    @classmethod
    def scaled_by_rank(cls, settings: Settings) -> bool:
        return bool(cls.setting(settings, 'prefixes') == 'plain')

    @classmethod
    def at_rank(
        cls, settings: Settings, rank: int, kernel_rank: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of the LoRA that a prefix is."""
        known = ('alpha', 'rslora')
        own = {name: cls.setting(settings, name) for name in known}
        return LoRA.at_rank(dict(own, rank=rank), rank, kernel_rank)

    @classmethod
    def truncated(
        cls, tensors: Tensors, settings: Settings, lower: Settings
    ) -> dict[str, Tensor]:
        """Return B[:, :r] and A[:r], with P in B where it is kept."""
        rank, up = lower['rank'], tensors['up'].double()
        if not cls.scaled_by_rank(settings):
            adapter = cls.blank(
                (len(up), *tensors['down'].shape[1:]), settings
            )
            up = up * (up.new_tensor(adapter.weights) / adapter.scale_at(rank))
        return dict(
            up=up[:, :rank].to(tensors['up'].dtype),
            down=tensors['down'][:rank],
        )

    def meaning(self) -> dict[str, Any]:
        return dict(
            rank=self.rank,
            alpha=self.alpha,
            ranks=self.ranks,
            rslora=self.root,
        )
