"""Reading checkpoints of PyTorch without running what they may hold.

A checkpoint is a pickle, and unpickling runs what the file says.
``torch.load(weights_only=True)`` reads tensors and plain types alone; what
the trainings of OpenMMLab write holds a little more.  Exactly this is read
beside:

================================= =========================================
name in the file                  what it is read as
================================= =========================================
numpy's ``scalar``                a number or text of NumPy, by a function
                                  here that makes nothing else
numpy's ``ndarray``, ``dtype``,   themselves; arrays of numbers and text
``_reconstruct``
``HistoryBuffer``                 itself
``getattr``                       the statistics of a ``HistoryBuffer``, and
                                  nothing else
``argparse.Namespace``            itself, a bag of settings
``slice``                         itself
================================= =========================================

Everything else is refused, unless :func:`trusted_checkpoints` says that the
files of this run may do what they want.
"""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

OPTION = '--trust-checkpoints'
_TRUSTED: ContextVar[bool] = ContextVar('trusted', default=False)
_STATISTICS = ('min', 'max', 'current', 'mean')
# Kinds of NumPy's types that hold values and no references to objects.
_VALUES = 'biufcSU'
_SCALARS = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64),
    *(np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.str_, np.bytes_),
)


@contextmanager
def trusted_checkpoints(trust: bool = True) -> Iterator[None]:
    """Unpickle whatever checkpoints hold, within a ``with`` block.

    Reading such a file may run any code that its author chose.

    Args:
        trust: ``False`` to change nothing.
    """
    token = _TRUSTED.set(trust or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def read_safely(
    path: str | os.PathLike[str],
    map_location: Any = None,
    content: IO[bytes] | None = None,
    mmap: bool = False,
) -> Any:
    """Read a file that ``torch.save`` wrote, running nothing of it.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        content: What the file holds, where it is not on the disk.
        mmap: Map the file instead of reading it; for files that do not
            change while their tensors are in use.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or holds objects of other kinds than
            those above.
    """
    source = content or os.path.expanduser(os.fspath(path))
    options: dict[str, Any] = dict(weights_only=not _TRUSTED.get())
    if mmap and zipfile.is_zipfile(source):  # else it cannot be mapped
        options['mmap'] = True
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(source, map_location, **options)
    except (FileNotFoundError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(os.fspath(path), error)) from error
    except Exception as error:  # whatever a damaged file makes a reader do
        raise ValueError(
            f"'{os.fspath(path)}' is truncated or damaged "
            f'({type(error).__name__}: {str(error).strip():.200}). Copy it '
            'again.'
        ) from error


def check_safe(path: str | os.PathLike[str]) -> None:
    """Refuse a file that :func:`read_safely` would refuse; read no tensor.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: See :func:`read_safely`.
    """
    read_safely(path, 'meta')


def _refusal(path: str, error: Exception) -> str:
    told = str(error)
    named = re.search(r'GLOBAL (\S+)', told)
    reason = told.partition('WeightsUnpickler error: ')[2] or told
    what = named[1] if named else ' '.join(reason.split())[:200]
    return (
        f"'{path}' holds objects that could run code when they are read "
        f'({what}), which is refused. Checkpoints of training hold none. If '
        'you trust whoever made the file, give tools/train.py or '
        f'tools/test.py the option {OPTION}; in Python, read it within '
        '`mmflora.checkpoint.trusted_checkpoints()`.'
    )


def _allowed() -> list[Any]:
    """Return the objects by the names that NumPy 1 and 2 have for them."""
    core = np._core if hasattr(np, '_core') else np.core
    named = [
        (target, f'numpy.{package}.multiarray.{name}')
        for package in ('core', '_core')
        for target, name in (
            (core.multiarray._reconstruct, '_reconstruct'),
            (_scalar, 'scalar'),
        )
    ]
    return [
        HistoryBuffer,
        argparse.Namespace,
        slice,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in _SCALARS},
        *named,
        (_statistic, 'builtins.getattr'),
    ]


def _scalar(kind: Any, content: Any) -> Any:
    """Stand in for NumPy's ``scalar``, for values alone."""
    if (
        not isinstance(kind, np.dtype)
        or kind.kind not in _VALUES
        or not isinstance(content, bytes)
        or len(content) != kind.itemsize
    ):
        raise pickle.UnpicklingError(f'a scalar of {kind!r} is not allowed')
    return np.frombuffer(content, kind)[0]


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in a file, for a buffer's statistics alone."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'getattr of {name!r} of {owner!r:.60} is not allowed'
    )
