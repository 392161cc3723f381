"""Where weights come from: local files, URLs and hubs."""

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from .checksums import is_archive
from .downloads import download, not_reached
from .pickles import read_safely
from .stored_tensors import (
    StoredTensor,
    open_weights,
    unwrap,
    weight_files,
)
from .tensor_files import read_head, read_tensors

TIMM_SCHEME = 'timm://'
BASES = 'MMFLORA_BASES'
"""The environment's folders of weights that are no longer in their place."""
T = TypeVar('T')


def load_from_timm(
    filename: str, map_location: str | torch.device | None = None
) -> dict[str, Tensor]:
    """Load the weights that timm publishes under a tag.

    Args:
        filename: ``timm://`` and a tag, ``timm://convnextv2_atto.fcmae``.
        map_location: Where the tensors go.

    Raises:
        ConnectionError: If they are not in the cache, and cannot be fetched.
        ValueError: If timm knows no weights under that tag.
    """
    import timm
    from timm.models import load_state_dict_from_hf

    tag = filename.removeprefix(TIMM_SCHEME)
    known = timm.list_pretrained()
    if tag not in known:
        near = difflib.get_close_matches(tag, known, n=5, cutoff=0.0)
        raise ValueError(
            f"'{filename}': timm has no weights under '{tag}'. "
            f'The nearest tags are {", ".join(near)}.'
        )
    config = timm.get_pretrained_cfg(tag)
    if not config.hf_hub_id:
        return read_file(download(config.url), map_location)
    try:
        # The registered identifier already is timm's own spelling of it.
        state = load_state_dict_from_hf(
            config.hf_hub_id,
            config.hf_hub_filename or 'model.safetensors',
            weights_only=True,
        )
    except OSError as error:
        raise not_reached(
            filename, 'HF_HOME, or ~/.cache/huggingface', error
        ) from error
    return {k: value.to(map_location or 'cpu') for k, value in state.items()}


def read_file(path: str, map_location: Any = None, mmap: bool = False) -> Any:
    """Read a local file of weights, of either kind.

    Args:
        path: A ``.safetensors`` file, or one that ``torch.save`` wrote.
        map_location: As for ``torch.load``.
        mmap: Map it instead of reading it.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or could run code.
    """
    if not path.endswith('.safetensors'):
        return read_safely(path, map_location, mmap=mmap)
    _, tensors = read_tensors(os.path.expanduser(path), mmap)
    place = map_location or 'cpu'
    return {key: value.to(place) for key, value in tensors.items()}


def is_local(source: str) -> bool:
    """Return whether a source is a path rather than a URL or a scheme."""
    return re.match(r'[\w.-]+:(//)?', source) is None


def find_source(source: str) -> str:
    """Return where weights are: in their place, or in a folder of the user's.

    Args:
        source: A local path, URL, or ``timm://<tag>``.

    Returns:
        The source itself, unless it is a path where nothing is and the
        environment's ``MMFLORA_BASES`` names a folder with that file.
    """
    if not is_local(source) or os.path.exists(os.path.expanduser(source)):
        return source
    for folder in os.environ.get(BASES, '').split(os.pathsep):
        name = os.path.basename(source.rstrip('/'))
        moved = os.path.join(os.path.expanduser(folder), name)
        if folder and os.path.exists(moved):
            print_log(
                f"Nothing is at '{source}'; {BASES} has '{moved}'.",
                logger='current',
            )
            return moved
    return source


def check_source(source: str) -> None:
    """Check that a local base or checkpoint exists and is complete.

    Args:
        source: What ``init_cfg.checkpoint`` or ``load_from`` names: a file,
            an index of shards, or a folder of either.

    Raises:
        FileNotFoundError: If a local file is missing.
        ValueError: If it is truncated or no checkpoint at all.
    """
    if not is_local(source):
        return
    path = os.path.expanduser(source)
    if is_sharded(source) and os.path.exists(path):
        for file in weight_files(source):
            _check_file(file)
        return
    _check_file(source)


def is_sharded(source: str) -> bool:
    """Return whether a source is a folder or an index of shards."""
    path = os.path.expanduser(source)
    return os.path.isdir(path) or path.endswith('.index.json')


def _check_file(source: str) -> None:
    path = os.path.expanduser(source)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"Weights not found: '{source}' (looked in "
            f"'{os.path.abspath(path)}'). Give a local file, a URL, or "
            f"'{TIMM_SCHEME}<tag>' for weights that timm publishes; a "
            'relative path counts from the working directory. If the file '
            'has moved, name its new folder in the environment: '
            f'{BASES}=FOLDER'
        )
    if path.endswith('.safetensors'):
        read_head(path)
        return
    with open(path, 'rb') as file:
        head = file.read(4)
    if head[:2] == b'PK' and not is_archive(path):
        raise ValueError(
            f"'{source}' is truncated: its archive has no end. Copy or "
            f'download it again (it has {os.path.getsize(path)} bytes).'
        )
    if head[:2] != b'PK' and head[:1] != b'\x80':
        raise ValueError(
            f"'{source}' is no PyTorch checkpoint (it starts with {head!r}). "
            'Allowed are files written by torch.save and .safetensors files.'
        )


def read_state_dict(
    source: str, prefix: str | None = None
) -> dict[str, Tensor]:
    """Read a model's weights from any source, without the wrapping.

    Args:
        source: A local path, URL, or ``timm://<tag>``.
        prefix: Keep only keys that start with it, and cut it off:
            ``'backbone.'`` for a detector's backbone.

    Returns:
        Key to tensor, on the CPU; they may be maps of the file.

    Raises:
        FileNotFoundError: If a local file is missing.
        ValueError: If the file is damaged, or holds nothing under ``prefix``.
    """
    source = find_source(source)
    check_source(source)
    sharded = is_local(source) and is_sharded(source)
    state = {
        key: value
        for file in (weight_files(source) if sharded else [source])
        for key, value in unwrap(_load(file)).items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    return named_weights(state, source, prefix)


def open_table(
    source: str, prefix: str | None = None
) -> Mapping[str, StoredTensor | Tensor]:
    """Open weights as a table, to be read one by one.

    Args:
        source: As for :func:`read_state_dict`.
        prefix: See there.

    Returns:
        Key to tensor: where it lies in its file; the tensor itself where
        nothing else is possible.

    Raises:
        FileNotFoundError: If a local file is missing.
        ValueError: See :func:`read_state_dict`.
    """
    check_source(source)
    table = open_weights(source) if is_local(source) else None
    if table is None:
        return read_state_dict(source, prefix)
    return named_weights(table, source, prefix)


def named_weights(
    weights: Mapping[str, T], source: str, prefix: str | None = None
) -> dict[str, T]:
    """Drop what wrappers put before the keys of a model's weights.

    Args:
        weights: Weights by the keys of their file.
        source: The file, for the error.
        prefix: As for :func:`read_state_dict`.

    Raises:
        ValueError: If there are none, or none under ``prefix``.
    """
    state = {
        re.sub(r'^module\.', '', key): value for key, value in weights.items()
    }
    if not state:
        raise ValueError(f"'{source}' holds no named weights.")
    if prefix:
        start = prefix if prefix.endswith('.') else f'{prefix}.'
        kept = {
            key.removeprefix(start): value
            for key, value in state.items()
            if key.startswith(start)
        }
        if not kept:
            parts = sorted({key.split('.')[0] for key in state})
            raise ValueError(
                f"'{source}' holds no weights under the prefix '{prefix}'; "
                f'its keys start with {", ".join(parts[:12])}.'
            )
        return kept
    return state


def _load(source: str) -> Any:
    if is_local(source):
        print_log(f"Base weights from '{source}'", logger='current')
        # Mapped, as what is read is copied into a model right away.
        return read_file(source, 'cpu', mmap=True)
    return CheckpointLoader.load_checkpoint(
        source, map_location='cpu', logger='current'
    )
