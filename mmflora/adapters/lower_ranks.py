"""Adapters of lower ranks, made of one layer's adapter without data.

Two ways: the prefix of its components, and the nearest one of all.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmflora.registry import ADAPTERS

from .stored import Settings, Tensors, scale_of
from .updates import Update


class LowerRanks:
    """A method whose adapters hold adapters of lower ranks as prefixes."""

    def squeezes(self) -> bool:
        """Return whether :meth:`squeeze` lowers the rank of what trains."""
        return False

    def squeezed(self, rank: int) -> dict[str, Tensor]:
        """Return the parameters of the nearest update of a lower rank."""
        raise NotImplementedError

    @torch.no_grad()
    def squeeze(self: Any, rank: int) -> None:
        """Replace the update by the nearest one of a lower rank, in place.

        The components that are dropped are zero in all factors, so that
        their gradients are zero, too.
        """
        for name, value in self.squeezed(rank).items():
            parameter = self.get_parameter(name)
            parameter.copy_(padded(value, parameter.shape))

    @classmethod
    def prefix_method(cls) -> Any:
        """Return the class of the prefixes, by default the method's own."""
        return cls

    @classmethod
    def scaled_by_rank(cls, settings: Settings) -> bool:
        """Return whether the factor on a prefix is the one of its rank.

        By default it is that of the whole adapter.
        """
        return False

    @classmethod
    def trained_rank(cls: Any, settings: Settings) -> int:
        """Return the rank that settings name."""
        return int(cls.setting(settings, cls.rank_setting))

    @classmethod
    def at_rank(
        cls: Any, settings: Settings, rank: int, kernel_rank: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of a prefix.

        Args:
            settings: Those of the whole adapter.
            rank: The rank of the prefix.
            kernel_rank: That of a kernel's modes, where there are such.

        Raises:
            ValueError: If the method has no kernel modes, or their rank is
                above what was trained.
        """
        if kernel_rank is not None:
            raise ValueError(
                f'{cls.__name__} has no modes of a kernel: leave out the '
                'kernel rank, which is for FLoRA.'
            )
        lower = {**settings, cls.rank_setting: rank}
        known = 'alpha' in inspect.signature(cls).parameters
        alpha = cls.setting(settings, 'alpha') if known else None
        if alpha is not None:
            whole, part = (
                scale_of(cls.blank((1, 1), one)) for one in (settings, lower)
            )
            lower['alpha'] = alpha * whole / part
        return lower

    @classmethod
    def truncated(
        cls: Any, tensors: Tensors, settings: Settings, lower: Settings
    ) -> dict[str, Tensor]:
        """Return the tensors of a prefix.

        Args:
            tensors: Those of the whole adapter.
            settings: Its settings.
            lower: Those of the prefix, see :meth:`at_rank`.
        """
        shape = cls.stored_shape(tensors, settings)
        whole, part = (
            cls.blank(shape, one).state_dict() for one in (settings, lower)
        )
        found = {}
        for name, value in tensors.items():
            if name in part and part[name].shape != whole[name].shape:
                value = value[tuple(map(slice, part[name].shape))]
            found[name] = value
        return found

    @classmethod
    def nearest(
        cls: Any,
        tensors: Tensors,
        settings: Settings,
        kernel_rank: int | None = None,
    ) -> 'Ranked':
        """Return the nearest adapters of lower ranks, by default LoRAs.

        Raises:
            ValueError: If the update depends on the frozen weight.
        """
        cls.at_rank(settings, 1, kernel_rank)
        shape = cls.stored_shape(tensors, settings)
        return NearestMatrices(
            ADAPTERS.get('LoRA'),
            cls.whole_update(tensors, settings),
            shape[1:],
            dict(form='spatial'),
            scale_of(cls.blank(shape, settings)),
        )

    @classmethod
    def whole_update(cls: Any, tensors: Tensors, settings: Settings) -> Update:
        """Return the update that stored tensors are.

        Raises:
            ValueError: If it depends on the frozen weight, or is none of one.
        """
        update: Update | None = cls.stored_update(tensors, settings)
        if update is None:
            raise ValueError(
                f'the update of {cls.__name__} depends on the frozen weight, '
                'which is not in the file, or is none of a weight: no nearest '
                'one can be found. `truncate` takes the prefix of a rank.'
            )
        return update


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


class NearestMatrices(Ranked):
    """The nearest products s B A of lower ranks, by the SVD of the update.

    With ΔW = U S Vᵀ they are ``B = ±U √(S / |s|)`` and ``A = √(S / |s|) Vᵀ``,
    with the sign of s (Eckart and Young; Vulić et al., "LoRA-Squeeze", 2026,
    arXiv:2602.10993, which takes a randomized SVD).  The SVD is that of a
    core of the update's own rank: ΔW is never computed.

    Args:
        method: LoRA's class.
        update: The update.
        down: The shape of A without its rank, ``(in, *kernel)``.
        settings: Those of the result, beside rank and alpha.
        scale: s.
        step: How many components one rank has.
    """

    def __init__(
        self,
        method: Any,
        update: Update,
        down: Sequence[int],
        settings: Settings,
        scale: float,
        step: int = 1,
    ) -> None:
        small = update.as_matrix().orthonormal()
        left, self.values, right = torch.linalg.svd(
            small.core, full_matrices=False
        )
        if small.factors:
            left = small.factors[0] @ left
            right = right @ small.factors[1].T
        self.left, self.right = left, right
        largest = -(-len(self.values) // step)
        super().__init__(method, largest, float(self.values.square().sum()))
        self.down, self.scale, self.step = tuple(down), scale, step
        self.given = dict(settings)

    def settings(self, rank: int) -> dict[str, Any]:
        return dict(self.given, rank=rank, alpha=self.scale * rank)

    def _width(self, rank: int) -> int:
        """Return the number of components; only plain ranks are clipped."""
        if self.step > 1:
            return rank * self.step
        return min(rank, len(self.left), self.right.shape[1])

    def tensors(self, rank: int) -> dict[str, Tensor]:
        width = self._width(rank)
        root = (self.values[:width] / abs(self.scale)).sqrt()
        sign = math.copysign(1, self.scale)
        up = sign * self.left[:, :width] * root
        down = root[:, None] * self.right[:width]
        return dict(
            up=padded(up, (len(up), width)),
            down=padded(down, (width, down.shape[1])).view(width, *self.down),
        )

    def parameters(self, rank: int) -> int:
        return self._width(rank) * (len(self.left) + self.right.shape[1])

    def kept(self, rank: int) -> float:
        return float(self.values[: self._width(rank)].square().sum())


def padded(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor with zeros up to a shape."""
    whole = tensor.new_zeros(*shape)
    whole[tuple(map(slice, tensor.shape))] = tensor
    return whole
