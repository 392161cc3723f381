"""Tensors whose parts lie on several processes, and whole ones.

FSDP keeps a part of each parameter on each process, as a ``DTensor`` with the
shape of the whole.  Files hold whole tensors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is spread over several processes."""
    return isinstance(tensor, DTensor)


def any_sharded(tensors: Iterable[Tensor]) -> bool:
    """Return whether one of the tensors is spread over several processes."""
    return any(is_sharded(tensor) for tensor in tensors)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in full; all processes must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, as another one is spread.

    No process talks to another: each has the whole value.

    Args:
        value: The whole.
        tensor: The tensor that it replaces; if this one is not spread, or
            has another shape, the value stays as it is.
    """
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    return distribute_tensor(
        value, tensor.device_mesh, tensor.placements, src_data_rank=None
    )


def gather(value: Any, keep: bool) -> Any:
    """Bring all tensors of a state together in memory, one after another.

    All processes must call it together.

    Args:
        value: Tensors, in dicts and lists of any depth; it is not changed.
        keep: Whether this process is to have them; else they are dropped,
            and it only helps the others.

    Returns:
        The same with whole tensors on the CPU, or ``None`` in their place.
    """
    if isinstance(value, Tensor):
        full = whole(value.detach())
        return full.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gather(item, keep) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gather(item, keep) for item in value)
    return value
