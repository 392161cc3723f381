"""Reading pickles without running what they may hold.

A checkpoint is a pickle, and unpickling runs what the file says.
``torch.load(weights_only=True)`` reads tensors and plain types alone.  The
checkpoints of OpenMMLab hold a little more.  Exactly these are read too:

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
files of this run may do what they want.  The same holds for ``.pkl`` files
that ``mmengine.load`` reads: annotations, and results of a test.
"""

import argparse
import io
import os
import pickle
import re
from importlib import import_module
from typing import IO, Any

import numpy as np
import torch
from mmengine.fileio.handlers.pickle_handler import PickleHandler
from mmengine.logging import HistoryBuffer

from .checksums import check_archive, is_archive
from .config_text import note_config_texts
from .trust import REMEDY, is_trusted

_STATISTICS = ('min', 'max', 'current', 'mean')
# Kinds of NumPy's types that hold values and no references to objects.
_VALUES = 'biufcSU'
_SCALARS = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64),
    *(np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.str_, np.bytes_),
)
# Beside these, what pickles of plain values, arrays and tensors name.
_PLAIN = {
    'builtins': 'set frozenset complex bytearray list dict',
    'collections': 'OrderedDict defaultdict Counter',
    'datetime': 'datetime date timedelta',
    'pathlib': 'PosixPath PurePosixPath',
    'torch': 'Size device',
    'torch._utils': '_rebuild_tensor_v2 _rebuild_parameter',
    'mmengine.structures.base_data_element': 'BaseDataElement',
    'mmengine.structures.instance_data': 'InstanceData',
    'mmengine.structures.pixel_data': 'PixelData',
}


def read_safely(
    path: str | os.PathLike[str],
    map_location: Any = None,
    content: IO[bytes] | None = None,
    mmap: bool = False,
) -> Any:
    """Read a file that ``torch.save`` wrote, running nothing of it.

    mmflora and MMEngine read every such file through this function.

    Args:
        path: The file.
        map_location: As for ``torch.load``; ``'meta'`` checks the file without
            keeping a value.
        content: What the file holds, where it is not on the disk.
        mmap: Map the file instead of reading it; for files that do not
            change while their tensors are in use.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or holds objects of other kinds than
            those above.
    """
    name = os.fspath(path)
    source = content or os.path.expanduser(name)
    options: dict[str, Any] = dict(weights_only=not is_trusted())
    if mmap and is_archive(source):  # else it cannot be mapped
        options['mmap'] = True
    check_archive(source, name)
    try:
        with torch.serialization.safe_globals(_allowed()):
            checkpoint = torch.load(source, map_location, **options)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes a reader do
        raise ValueError(_refusal(name, error)) from error
    note_config_texts(checkpoint, name)
    return checkpoint


class PlainPickleHandler(PickleHandler):
    """Reads ``.pkl`` files for ``mmengine.load``; values alone."""

    def load_from_fileobj(self, file: IO[bytes], **kwargs: Any) -> Any:
        """Read a pickle.

        Raises:
            ValueError: If it holds other objects, or is damaged.
        """
        if is_trusted():
            return super().load_from_fileobj(file, **kwargs)
        name = str(getattr(file, 'name', 'a pickle'))
        try:
            return _PlainUnpickler(file, **kwargs).load()
        except Exception as error:  # whatever a damaged file makes it do
            raise ValueError(_refusal(name, error)) from error


class _PlainUnpickler(pickle.Unpickler):
    """Makes plain values, arrays and tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, if it only holds values."""
        found = _in_plain_pickles().get(f'{module}.{name}')
        if found is None:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')
        return found


def _in_plain_pickles() -> dict[str, Any]:
    allowed: dict[str, Any] = {
        '_codecs.encode': _encoded,
        'torch.storage._load_from_bytes': _storage,
        'numpy.core.numeric._frombuffer': _array,
        'numpy._core.numeric._frombuffer': _array,
    }
    for item in _allowed():
        target, name = item if isinstance(item, tuple) else (item, '')
        allowed[name or f'{target.__module__}.{target.__qualname__}'] = target
    for place, names in _PLAIN.items():
        for name in names.split():
            target = getattr(import_module(place), name)
            for module in (place, place.replace('builtins', '__builtin__')):
                allowed[f'{module}.{name}'] = target
    return allowed


def _storage(content: bytes) -> Any:
    """Stand in for PyTorch's own, which would unpickle anything."""
    return torch.load(io.BytesIO(content), weights_only=True)


def _encoded(text: Any, encoding: Any = 'latin1') -> bytes:
    """Stand in for ``codecs.encode``, as Python 2's protocols write bytes."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode to {encoding!r}')
    return text.encode(encoding)


def _array(content: Any, kind: Any, shape: Any, order: Any) -> Any:
    """Stand in for NumPy's ``_frombuffer``, for values alone."""
    if not isinstance(kind, np.dtype) or kind.kind not in _VALUES:
        raise pickle.UnpicklingError(f'an array of {kind!r} is not allowed')
    return np.frombuffer(content, kind).reshape(shape, order=order)


def _refusal(path: str, error: Exception) -> str:
    told = str(error)
    if not isinstance(error, pickle.UnpicklingError):
        return (
            f"'{path}' is truncated or damaged "
            f'({type(error).__name__}: {told.strip():.200}). Copy it again.'
        )
    named = re.search(r'GLOBAL (\S+)', told)
    reason = told.partition('WeightsUnpickler error: ')[2] or told
    what = named[1] if named else ' '.join(reason.split())[:200]
    return (
        f"'{path}' holds objects that could run code when they are read "
        f'({what}), which is refused. Checkpoints of training hold none. '
        f'{REMEDY}'
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
