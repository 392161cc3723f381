"""One layer's adapters of all lower ranks, as one object."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .stored import Settings, Tensors


class Ranked:
    """All adapters of lower ranks of one layer.

    Args:
        method: Their class.
        largest: Their greatest rank.
        total: ‖ΔW‖², ``None`` where the update is not known.
    """

    def __init__(self, method: Any, largest: int, total: float | None):
        self.method, self.largest, self.total = method, largest, total

    def settings(self, rank: int) -> dict[str, Any]:
        """Return the settings at a rank, without ``type``."""
        raise NotImplementedError

    def tensors(self, rank: int) -> dict[str, Tensor]:
        """Return the tensors at a rank."""
        raise NotImplementedError

    def parameters(self, rank: int) -> int:
        """Return the number of parameters at a rank."""
        raise NotImplementedError

    def kept(self, rank: int) -> float:
        """Return ‖ΔW‖² − ‖ΔW − ΔW_r‖² at a rank r."""
        raise NotImplementedError


class Prefixes(Ranked):
    """The prefixes of one layer's adapter.

    Args:
        method: Its class.
        tensors: Its tensors.
        settings: Its settings.
        kernel_rank: See :meth:`LowerRanks.at_rank`.
    """

    def __init__(
        self,
        method: Any,
        tensors: Tensors,
        settings: Settings,
        kernel_rank: int | None = None,
    ) -> None:
        method.at_rank(settings, 1, kernel_rank)
        self.update = method.stored_update(tensors, settings)
        norm = None if self.update is None else self.update.norm() ** 2
        largest = method.trained_rank(settings)
        super().__init__(method.prefix_method(), largest, norm)
        self.trained, self.given, self.whole = method, dict(settings), tensors
        self.kernel_rank = kernel_rank

    def settings(self, rank: int) -> dict[str, Any]:
        found: dict[str, Any] = self.trained.at_rank(
            self.given, rank, self.kernel_rank
        )
        return found

    def tensors(self, rank: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.trained.truncated(
            self.whole, self.given, self.settings(rank)
        )
        return found

    def parameters(self, rank: int) -> int:
        shape = self.trained.stored_shape(self.whole, self.given)
        blank = self.method.blank(shape, self.settings(rank))
        return sum(parameter.numel() for parameter in blank.parameters())

    def kept(self, rank: int) -> float:
        part = self.method.stored_update(
            self.tensors(rank), self.settings(rank)
        )
        inner: float = self.update.inner(part)
        return 2 * inner - part.norm() ** 2


def padded(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor with zeros up to a shape."""
    whole = tensor.new_zeros(*shape)
    whole[tuple(map(slice, tensor.shape))] = tensor
    return whole
