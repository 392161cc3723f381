"""Adapters that train few entries of a weight, at places chosen once."""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .base import Adapter
from .entries import (
    Entries,
    add_entries,
    entries_to_weight,
    largest_places,
    place_type,
)
from .layer_weights import frozen_weight
from .precision import full_precision
from .settings import is_whole
from .stored import Part, Settings, Tensors


class SparseAdapter(Adapter):
    """ΔW is zero but at k places of the weight, whose values train.

    A place is a flat index, so that every kind of weight is served alike.
    Gradients and the optimizer's state have k numbers per layer.  The places
    are in the adapter's state and its file.  How many there are follows from
    the settings; which ones, from the weight (:meth:`scores`), from a
    statistic, or from a file.

    Args:
        weight: The frozen weight.
        density: The part of the weight's entries that trains, in (0, 1]; at
            least one does.
        budget: Instead, how many entries of each weight train.
        dropout: See :class:`Adapter`.

    Attributes:
        dim: Where whole slices of the weight train, the dimension in which
            places and counts are meant, see :class:`Entries`.
        places: Where the values belong, shape ``(k,)``, ascending.
        values: What is added there, zero at the start.
        shape: The weight's shape, so that a file says which weight it is of.

    Raises:
        TypeError: If the density is no number.
        ValueError: If the density is not in (0, 1], or the budget no integer
            from 1 up to the weight's size.
    """

    dim: int | None = None
    places: Tensor
    shape: Tensor

    def __init__(
        self,
        weight: Tensor,
        density: float = 0.05,
        budget: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(weight, dropout)
        self.count = self.counted(self.size(), density, budget)
        self.values = self.parameter_like(weight, *self.values_shape())
        nn.init.zeros_(self.values)
        kind, device = place_type(weight.numel()), weight.device
        places = torch.arange(self.count, dtype=kind, device=device)
        self.register_buffer('places', places)
        shape = torch.tensor(tuple(weight.shape), device=device)
        self.register_buffer('shape', shape)

    def size(self) -> int:
        """Return among how many places the choice is."""
        shape = self.weight_shape
        return shape.numel() if self.dim is None else shape[self.dim]

    def counted(self, size: int, density: Any, budget: Any) -> int:
        """Return how many of so many places train, by the settings."""
        return checked_count(type(self).__name__, size, density, budget)

    def values_shape(self) -> tuple[int, ...]:
        """Return the shape of the values."""
        if self.dim is None:
            return (self.count,)
        shape = list(self.weight_shape)
        shape[self.dim] = self.count
        return tuple(shape)

    def scores(self, weight: Tensor) -> Tensor | None:
        """Return by what the places are chosen: the largest are.

        Args:
            weight: The frozen weight, in float32 at least.

        Returns:
            A number for each place; ``None``, the default, where the places
            do not follow from the weight.
        """
        return None

    @torch.no_grad()
    def choose(self, scores: Tensor) -> None:
        """Take the places of the largest scores; values start at zero."""
        self.places.copy_(largest_places(scores, self.count))
        nn.init.zeros_(self.values)

    def begin(self, weight: Tensor) -> None:
        """Choose the places by the weight."""
        with torch.no_grad(), full_precision(weight.device.type):
            scores = self.scores(weight.detach().to(self.values.dtype))
            if scores is not None:
                self.choose(scores)

    def follow(self, layer: nn.Module) -> None:
        self.begin(frozen_weight(layer))

    def current(self) -> Tensor:
        """Return the values that are added now; by default those trained."""
        return self.values

    def entries(self) -> Entries | None:
        return Entries(self.places, self.current(), self.dim)

    def delta_weight(self) -> Tensor:
        """Return ΔW, zero but at the places."""
        return entries_to_weight(self._entries(), self.weight_shape)

    def adapted_weight(self, weight: Tensor) -> Tensor:
        return add_entries(weight, self._entries())

    def _entries(self) -> Entries:
        found = self.entries()
        if found is None:
            raise NotImplementedError
        return found

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.values

    def meaning(self) -> dict[str, Any]:
        return dict(entries=self.count)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *rest: Any
    ) -> None:
        """Load, unless the places are of another weight.

        Raises:
            ValueError: If they are.  MMEngine only logs what ``nn.Module``
                collects instead.
        """
        shape, places = (
            state_dict.get(prefix + name) for name in ('shape', 'places')
        )
        known = shape is not None and not shape.is_meta
        if known and tuple(shape.tolist()) != self.weight_shape:
            raise ValueError(
                f'{prefix}shape: the places are those of a weight of shape '
                f'{tuple(shape.tolist())}, but this one has '
                f'{tuple(self.weight_shape)}. Load the adapter into the model '
                'that it was trained with.'
            )
        if places is None and prefix + 'values' in state_dict:
            raise ValueError(
                f'{prefix}places: the values have no places. Take the file as '
                'the training wrote it.'
            )
        if places is not None and places.numel() and not places.is_meta:
            size = self.size()
            if int(places.min()) < 0 or int(places.max()) >= size:
                raise ValueError(
                    f'{prefix}places: not all are from 0 to {size - 1}. The '
                    'file was changed or damaged: take another copy of it.'
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        return tuple(tensors['shape'].tolist())

    @classmethod
    def has_sums(cls) -> bool:
        return True

    @classmethod
    def summed_settings(cls, settings: Sequence[Settings]) -> dict[str, Any]:
        """Return the settings under which all places find room."""
        budgets = [one.get('budget') for one in settings]
        if None not in budgets:
            return dict(budget=sum(budgets))
        if any(budgets):
            raise ValueError(
                f'{cls.__name__}: adapters with a `budget` and with a '
                '`density` have no sum.'
            )
        total = sum(cls.setting(one, 'density') for one in settings)
        return dict(density=min(1.0, total))

    @classmethod
    def summed(
        cls, parts: Sequence[Part], settings: Settings
    ) -> dict[str, Tensor]:
        """Return the places of all parts, with the sums of their values."""
        first = parts[0].tensors
        shape = cls.stored_shape(first, parts[0].settings)
        total = cls.blank(shape, settings)
        each = [cls.restored(p.tensors, p.settings) for p in parts]
        shares = [part.weight for part in parts]
        places, values = _union([one._entries() for one in each], shares)
        if len(places) > total.count:
            raise ValueError(
                f'{cls.__name__}: {len(places)} places of a weight of shape '
                f'{shape} find no room in {total.count}. Adapters of a '
                '`budget` have sums of any places.'
            )
        spare = torch.ones(total.size(), dtype=torch.bool)
        spare[places] = False
        more = spare.nonzero().flatten()[: total.count - len(places)]
        dim = total.dim or 0
        padding = values.new_zeros(total.values.shape).narrow(
            dim, 0, len(more)
        )
        places, order = torch.cat([places, more]).sort()
        values = torch.cat([values, padding], dim).index_select(dim, order)
        rest = cls.summed_rest(first, total.count)
        return {**rest, 'places': places, 'values': values}

    @classmethod
    def summed_rest(cls, tensors: Tensors, count: int) -> dict[str, Tensor]:
        """Return what a sum of ``count`` places has beside them."""
        return {k: v for k, v in tensors.items() if k not in _OWN}


_OWN = ('places', 'values')


def _union(
    entries: Sequence[Entries], shares: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the places that any of several updates has, and their sums."""
    dim = entries[0].dim or 0
    places = torch.cat([one.places.long() for one in entries])
    pairs = zip(shares, entries, strict=True)
    values = torch.cat([share * one.values for share, one in pairs], dim)
    unique, where = places.unique(return_inverse=True)
    shape = list(values.shape)
    shape[dim] = len(unique)
    return unique, values.new_zeros(shape).index_add(dim, where, values)


def checked_count(
    method: str, size: int, density: Any, budget: Any = None
) -> int:
    """Return how many of ``size`` places train.

    Raises:
        TypeError: If the density is no number.
        ValueError: If the density or the budget is out of its range.
    """
    if budget is not None:
        if not is_whole(budget, 1, size):
            raise ValueError(
                f'{method}: `budget` is how many entries of the weight train, '
                f'an integer from 1 to the {size} that it has, got '
                f'budget={budget!r}. Decrease it for this layer through '
                "`targets`, such as {'.*conv_dw': dict(budget=8), '.*': {}}, "
                'or set `density`.'
            )
        return int(budget)
    if isinstance(density, bool) or not isinstance(density, Real):
        raise TypeError(
            f'{method}: `density` is a number, such as 0.05, got '
            f'density={density!r}.'
        )
    if not 0 < float(density) <= 1:
        raise ValueError(
            f'{method}: `density` is the part of the entries that trains, '
            f'above 0 and at most 1, got density={density!r}.'
        )
    return max(1, int(float(density) * size))
