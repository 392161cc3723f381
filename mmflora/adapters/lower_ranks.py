"""Adapters of lower ranks, made of one layer's adapter without data.

Two ways: the prefix of its components, and the nearest one of all.
"""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmflora.registry import ADAPTERS

from .lower_matrices import NearestMatrices
from .ranked import Ranked, padded
from .stored import Settings, Tensors, scale_of
from .updates import Update


class LowerRanks:
    """A method whose adapters hold adapters of lower ranks as prefixes.

    Attributes:
        drawn_setting: The setting of the ranks that training draws from, of
            which a prefix has none; empty if there is no such.
    """

    drawn_setting: ClassVar[str] = ''

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
        lower.pop(cls.drawn_setting, None)
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
    ) -> Ranked:
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
