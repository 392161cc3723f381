"""Checksums of files and tensors, and the search for values gone wrong."""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

_CHUNK = 1 << 20
# Larger files are checked once in a process, unless they change.
_LARGE = 64 << 20
_checked: set[tuple[int, ...]] = set()


def is_archive(source: str | IO[bytes]) -> bool:
    """Return whether a file looks like a zip archive with an end."""
    try:
        return zipfile.is_zipfile(source)
    except zipfile.BadZipFile:  # it does, and it is damaged
        return True


def check_archive(source: str | IO[bytes], path: str) -> None:
    """Compare every record of a zip archive with its CRC-32.

    ``torch.load`` does not.  A file that is no archive, such as one that
    PyTorch wrote before its version 1.6, has no checksums; a record whose
    checksum is 0 was written without one.

    Args:
        source: The file, or what it holds.
        path: Its name, for the error.

    Raises:
        ValueError: If a record differs, or the archive cannot be read.
    """
    if not is_archive(source):
        return
    identity = _identity(source) if isinstance(source, str) else None
    if identity in _checked:
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for record in archive.infolist():
                record.CRC = record.CRC or None  # type: ignore[assignment]
                with archive.open(record) as stream:
                    while stream.read(_CHUNK):
                        pass
    except Exception as error:  # whatever a damaged file makes it do
        raise ValueError(
            f"'{path}' is damaged: its content is not what was written "
            f'({type(error).__name__}: {error}). Copy it again.'
        ) from error
    finally:
        if not isinstance(source, str):
            source.seek(0)
    if identity is not None:
        _checked.add(identity)


def _identity(path: str) -> tuple[int, ...] | None:
    status = os.stat(path)
    if status.st_size < _LARGE:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def tensors_sha256(
    tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None
) -> str:
    """Return the SHA-256 of tensors on the CPU, and of texts beside them.

    Names, types, shapes and values count; the order of the names does not.
    """
    digest = hashlib.sha256()
    for name, text in sorted((texts or {}).items()):
        digest.update(f'{name}|{text}|'.encode())
    for name in sorted(tensors):
        add_tensor(digest, f'{name}|', tensors[name])
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of one tensor: type, shape, values."""
    digest = hashlib.sha256()
    add_tensor(digest, '', tensor)
    return digest.hexdigest()


def add_tensor(digest: Any, start: str, tensor: Tensor) -> None:
    """Add a text and a tensor's type, shape and values to a hash."""
    tensor = tensor.detach().cpu().contiguous()
    digest.update(f'{start}{tensor.dtype}|{tuple(tensor.shape)}|'.encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity.

    It is read in parts, which need little memory of their own.  The sum of a
    part tells; only where that overflows each value is looked at.
    """
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    whole = torch.atleast_1d(tensor.detach())
    rows = max(1, _CHUNK * len(whole) // whole.numel())
    return all(
        bool(part.sum(dtype=torch.float32).isfinite())
        or bool(part.isfinite().all())
        for part in whole.split(rows)
    )


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors with NaN or infinity in them.

    Args:
        tensors: By name.
        what: What holds them, as the error begins.

    Raises:
        ValueError: Names the first such tensor and how many there are.
    """
    broken = [key for key, value in tensors.items() if not is_finite(value)]
    if broken:
        value = tensors[broken[0]]
        count = int((~value.isfinite()).sum())
        raise ValueError(
            f"{what}: {count} of the {value.numel()} values of '{broken[0]}' "
            'are NaN or infinite'
            + (f' (and {len(broken) - 1} more tensors)' * (len(broken) > 1))
            + '. Nothing can be computed with it: take a checkpoint from '
            'before the loss became NaN, or another copy of the file.'
        )
