"""The precision in which adapted layers compute."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


@torch.compiler.assume_constant_result
def _knows_autocast(device_type: str) -> bool:
    """Return whether a device has autocast; the compiler cannot look in."""
    return torch.amp.is_autocast_available(device_type)


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Leave autocast aside, on devices (other than meta) that know it."""
    if _knows_autocast(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def on_cpu(tensor: Tensor) -> bool:
    """Return whether to compute as is fast on a CPU."""
    return tensor.device.type == 'cpu'


def compute_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """Return the type of the operands of a layer: autocast's, if it is on.

    Args:
        inputs: The layer's input.
        weight: The layer's weight, of the same type outside autocast.

    Raises:
        TypeError: If the types differ outside autocast, which the stock
            layers of PyTorch refuse too.
    """
    device_type = inputs.device.type
    if (
        inputs.dtype != torch.float64
        and _knows_autocast(device_type)
        and torch.is_autocast_enabled(device_type)
    ):
        return torch.get_autocast_dtype(device_type)
    if inputs.dtype != weight.dtype:
        raise TypeError(
            f'The input is {inputs.dtype}, the weight {weight.dtype}: outside '
            'autocast they must be of one type. Convert one of them, or '
            "compute under torch.autocast (in a config: autocast='bfloat16' "
            'in the backbone).'
        )
    return weight.dtype


def cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a tensor in another type, ``None`` for ``None``."""
    return None if tensor is None else tensor.to(dtype)
