"""Training checkpoints of plain types alone.

``torch.load(path, weights_only=True)`` reads tensors, numbers, text and
containers of them, and runs nothing that a file may hold.  MMEngine's
checkpoints hold two kinds of objects beside: scalars of NumPy, and the
``HistoryBuffer`` of each logged value.  Here they become plain types before
a file is written, and histories become buffers again after it was read.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

HISTORY = '_history_buffer'
"""The one key of a dict that stands for a history of logged values."""

_PLAIN = (str, bytes, bool, int, float, complex, type(None))
_TENSORS = (torch.Tensor, torch.Size, torch.dtype, torch.device)
# State dicts are plain already, and carry an attribute that a copy loses.
_KEPT = ('state_dict', 'ema_state_dict')


def make_plain(checkpoint: dict[str, Any]) -> None:
    """Replace, in place, whatever ``weights_only=True`` could not read.

    An object of a type unknown here stays; the log says where it stands.

    Args:
        checkpoint: What the runner is about to write.
    """
    foreign: list[str] = []
    for key, value in checkpoint.items():
        if key not in _KEPT:
            checkpoint[key] = _plain(value, key, foreign)
    if foreign:
        print_log(
            'The checkpoint holds objects that torch.load(weights_only=True) '
            f'does not read: {", ".join(foreign[:5])}. Keep plain types in '
            'the metainfo of data sets and in what hooks save.',
            logger='current',
            level=logging.WARNING,
        )


def restore_histories(checkpoint: dict[str, Any]) -> None:
    """Make histories buffers again, in place, as a resumed run wants them.

    Args:
        checkpoint: What the runner has read; of any origin.
    """
    hub = checkpoint.get('message_hub')
    scalars = hub.get('log_scalars') if isinstance(hub, dict) else None
    if not isinstance(scalars, dict):
        return
    for key, value in scalars.items():
        if isinstance(value, dict) and value.keys() == {HISTORY}:
            scalars[key] = _history(value[HISTORY])


def drop_wrapper_prefix(checkpoint: dict[str, Any]) -> None:
    """Name weights as the model itself does, in place.

    ``FlexibleRunner`` saves those of the distributed wrapper around the
    model, whose names all begin with ``module.``.

    Args:
        checkpoint: What is about to be written, or was read.
    """
    state = checkpoint.get('state_dict')
    prefix = 'module.'
    if not state or not all(key.startswith(prefix) for key in state):
        return
    metadata = getattr(state, '_metadata', {})
    renamed = OrderedDict(
        (key.removeprefix(prefix), value) for key, value in state.items()
    )
    renamed._metadata = OrderedDict(  # type: ignore[attr-defined]
        (key.removeprefix('module').removeprefix('.'), value)
        for key, value in metadata.items()
        if key.startswith('module')
    )
    checkpoint['state_dict'] = renamed


def _history(plain: Mapping[str, Any]) -> HistoryBuffer:
    buffer = HistoryBuffer(max_length=plain['max_length'])
    # Past the constructor, which copies element by element.
    buffer._log_history = plain['values'].cpu().numpy()
    buffer._count_history = plain['counts'].cpu().numpy()
    return buffer


def _plain(value: Any, where: str, foreign: list[str]) -> Any:
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(part.copy()) for part in value.data)
        described = dict(
            values=values, counts=counts, max_length=value.max_length
        )
        return {HISTORY: described}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), where, foreign)
    if isinstance(value, Mapping):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind(
            (
                _plain(key, where, foreign),
                _plain(item, f'{where}.{key}', foreign),
            )
            for key, item in value.items()
        )
    if isinstance(value, (list, tuple, set)) and not isinstance(
        value, torch.Size
    ):
        parts = [
            _plain(item, f'{where}.{index}', foreign)
            for index, item in enumerate(value)
        ]
        kinds = {tuple: tuple, list: list, set: set}
        return kinds.get(type(value), list)(parts)
    if isinstance(value, PurePath):
        return str(value)
    if type(value) not in _PLAIN and not isinstance(value, _TENSORS):
        foreign.append(f"'{where}' ({type(value).__name__})")
    return value
