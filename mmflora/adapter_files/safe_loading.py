"""Reading checkpoints of PyTorch without running what they may hold.

``torch.load(weights_only=True)`` reads tensors and plain types.  What stock
MMEngine writes holds more: scalars and arrays of NumPy, and the histories of
logged values.  Exactly these are allowed here beside:

================================= =========================================
name in the file                  what it is read as
================================= =========================================
numpy's ``scalar``, ``ndarray``,  themselves; arrays of numbers
``dtype``, ``_reconstruct``
``HistoryBuffer``                 itself
``getattr``                       the statistics of a ``HistoryBuffer``, and
                                  nothing else
================================= =========================================
"""

import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmflora.checkpoint.sources import check_source

_STATISTICS = ('min', 'max', 'current', 'mean')


def load_checkpoint(
    path: str | os.PathLike[str], bare: bool = False
) -> dict[str, Any]:
    """Read a training checkpoint without running what it may hold.

    Args:
        path: A file that training wrote, with mmflora's hook or MMEngine's.
        bare: Take a file that is nothing but a state dict, too.

    Returns:
        With ``state_dict`` in it.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or holds objects of other kinds.
    """
    name = os.fspath(path)
    check_source(name)
    try:
        with torch.serialization.safe_globals(_allowed()):
            checkpoint = torch.load(
                name, map_location='cpu', weights_only=True
            )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"'{name}' holds objects that could run code when they are read, "
            'so it was not read. Checkpoints of training hold none. What '
            f'torch.load says: {_first_line(error)}'
        ) from error
    except (RuntimeError, EOFError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{name}' is truncated or damaged ({_first_line(error)}). Copy "
            'it again.'
        ) from error
    if bare and isinstance(checkpoint, Mapping):
        checkpoint = {'state_dict': checkpoint, **checkpoint}
    if not isinstance(checkpoint, dict) or not isinstance(
        checkpoint.get('state_dict'), Mapping
    ):
        raise ValueError(
            f"'{name}' has no `state_dict`: it is no training checkpoint. "
            'Give a file that `tools/train.py` wrote.'
        )
    return checkpoint


def _allowed() -> list[Any]:
    core = np._core if hasattr(np, '_core') else np.core
    numbers = (np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_)
    return [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        core.multiarray._reconstruct,
        core.multiarray.scalar,
        *(type(np.dtype(number)) for number in numbers),
        (_statistic, 'builtins.getattr'),
    ]


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in a file, for a buffer's statistics alone."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'getattr of {name!r} of {owner!r:.60} is not allowed'
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
