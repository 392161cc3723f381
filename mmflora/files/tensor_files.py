"""Reading and writing ``.safetensors`` files, with a hash of the content."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import staged_file
from .checksums import check_finite, tensors_sha256

HASH_KEY = 'mmflora_sha256'
"""The entry of the metadata with the SHA-256 of all the rest."""


@contextmanager
def _named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        raise ValueError(
            f"'{os.fspath(path)}' is truncated, damaged or no .safetensors "
            f'file ({error}; it has {size} bytes). Copy or download it again.'
        ) from error


def read_head(
    path: str | os.PathLike[str],
) -> tuple[dict[str, str], list[str]]:
    """Return the metadata of a file and the names of its tensors.

    The head says how long the file must be; no tensor is read.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is truncated, or no ``.safetensors`` file.
    """
    with _named_errors(path), safe_open(str(path), framework='pt') as opened:
        return dict(opened.metadata() or {}), list(opened.keys())


def read_tensors(
    path: str | os.PathLike[str], mmap: bool = False
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata of a file and its tensors.

    Args:
        path: The file.
        mmap: Map the tensors instead of copying them; for files that do not
            change while their tensors are in use.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or its content is not what mmflora
            wrote there.
    """
    with _named_errors(path), safe_open(str(path), framework='pt') as opened:
        metadata = dict(opened.metadata() or {})
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if not mmap:
            tensors = {key: value.clone() for key, value in tensors.items()}
    wanted = metadata.get(HASH_KEY)
    if wanted is not None:
        rest = {k: v for k, v in metadata.items() if k != HASH_KEY}
        content = tensors_sha256(tensors, rest)
        if content != wanted:
            raise ValueError(
                f"'{os.fspath(path)}': its content (SHA-256 {content}) is "
                f'not what was written (SHA-256 {wanted}): it was changed or '
                'damaged. Take another copy of it.'
            )
    return metadata, tensors


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors and metadata, in full or not at all.

    Args:
        path: The file.
        tensors: On the CPU, contiguous; none shares memory with another.
        metadata: Texts by name.

    Raises:
        OSError: If the disk is full or not writable; what was there before
            is still there.
        ValueError: If a tensor holds NaN or infinity.
    """
    check_finite(tensors, f"'{os.fspath(path)}' was not written")
    texts = {'format': 'pt', **metadata}
    texts[HASH_KEY] = tensors_sha256(tensors, texts)
    with staged_file(Path(path)) as partial:
        save_file(dict(tensors), partial, texts)
