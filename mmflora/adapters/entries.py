"""The formulas of updates that are zero but at few places of a weight."""

from typing import NamedTuple

import torch
from torch import Tensor


class Entries(NamedTuple):
    """An update that is zero but at some places.

    Attributes:
        places: Shape ``(k,)``, integers, none of them twice.
        values: Without ``dim`` of shape ``(k,)``: ΔW[p] = v at the flat
            (row-major) index p.  With it, ΔW is not zero in whole slices: the
            values have the weight's shape, but for k in that dimension.
        dim: The dimension in which places count; ``None`` for flat indices.
    """

    places: Tensor
    values: Tensor
    dim: int | None = None


def entries_to_weight(entries: Entries, shape: torch.Size) -> Tensor:
    """Return ΔW in the weight's shape."""
    return add_entries(entries.values.new_zeros(shape), entries)


def add_entries(
    weight: Tensor, entries: Entries, dtype: torch.dtype | None = None
) -> Tensor:
    """Return W + ΔW, added in the wider type.

    Args:
        weight: W; what is not at one of the places stays as it is, bit for
            bit.
        entries: ΔW.
        dtype: The type of the sum, by default that of W.
    """
    places, values, dim = entries
    wide = torch.promote_types(weight.dtype, values.dtype)
    whole = weight.to(wide)
    if dim is None:
        whole = whole.flatten().index_add(0, places, values.to(wide))
        whole = whole.view(weight.shape)
    else:
        whole = whole.index_add(dim, places, values.to(wide))
    return whole.to(weight.dtype if dtype is None else dtype)


def entries_of(tensor: Tensor, places: Tensor, dim: int | None) -> Tensor:
    """Return what stands at places, in the shape of ``Entries.values``."""
    if dim is None:
        return tensor.flatten().index_select(0, places)
    return tensor.index_select(dim, places)


def largest_places(scores: Tensor, count: int) -> Tensor:
    """Return where the largest of some scores stand, in ascending order.

    Args:
        scores: Of any shape; flat indices are returned.
        count: How many.
    """
    found: Tensor = torch.topk(scores.flatten(), count, sorted=False).indices
    return found.sort().values


def place_type(size: int) -> torch.dtype:
    """Return the smallest type of indices into so many numbers."""
    return torch.int32 if size <= torch.iinfo(torch.int32).max else torch.int64
