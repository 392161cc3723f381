"""How MMEngine reads files while mmflora is imported: safely, adapters too.

MMEngine's own loaders read what ``torch.load(weights_only=True)`` refuses by
unpickling it whole, which runs whatever the file says.  The loaders here take
their place for files, folders, URLs and object stores.  So training, testing,
``init_detector``, ``init_model`` and the inferencers read checkpoints of
strangers safely, and adapters in either form like any checkpoint.
"""

import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import apply_to
from safetensors import SafetensorError, safe_open

from mmflora.files.pickles import read_safely
from mmflora.files.sources import load_from_safetensors

from .convert import to_checkpoint
from .read import read_adapter
from .schema import CONFIG_NAME
from .write import METADATA_KEY


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is an adapter: a folder of one, or its tensors.

    Files of weights end in ``.safetensors`` too; an adapter's describes it in
    its metadata, or in a file beside it.
    """
    place = Path(os.path.expanduser(path))
    if place.is_dir():
        return (place / CONFIG_NAME).is_file()
    if place.suffix != '.safetensors' or not place.is_file():
        return False
    try:
        with safe_open(str(place), framework='pt') as opened:
            return METADATA_KEY in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False  # its reader says what is wrong


@CheckpointLoader.register_scheme(
    prefixes=('', r'.*\.safetensors$'), force=True
)
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint, an adapter, or weights as ``.safetensors``.

    Args:
        filename: A file, or the folder of an adapter.
        map_location: As for ``torch.load``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or could run code.
    """
    path = os.path.expanduser(filename)
    if is_adapter(path):
        return _moved(to_checkpoint(read_adapter(path)), map_location)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"Checkpoint not found: '{filename}' (looked in "
            f"'{os.path.abspath(path)}'). Give a file, or the folder of an "
            'adapter.'
        )
    if path.endswith('.safetensors'):
        return load_from_safetensors(path, map_location)
    return read_safely(path, map_location)


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Load a file from the web, kept where ``torch.hub`` keeps files.

    Args:
        filename: A URL.
        map_location: As for ``torch.load``.

    Raises:
        ValueError: If it is damaged, or could run code.
    """
    rank, _ = get_dist_info()
    if rank == 0:
        _download(filename)
    barrier()
    return load_from_local(_download(filename), map_location)


@CheckpointLoader.register_scheme(
    prefixes=(r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True
)
def load_from_ceph(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint from an object store.

    Args:
        filename: With its scheme.
        map_location: As for ``torch.load``.

    Raises:
        ValueError: If it is damaged, or could run code.
    """
    backend = get_file_backend(filename, backend_args={'backend': 'petrel'})
    with io.BytesIO(backend.get(filename)) as content:
        return read_safely(filename, map_location, content=content)


def _download(url: str) -> str:
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    return str(path)


def _moved(checkpoint: dict[str, Any], map_location: Any) -> dict[str, Any]:
    if map_location in (None, 'cpu'):
        return checkpoint
    moved: dict[str, Any] = apply_to(
        checkpoint,
        lambda value: isinstance(value, torch.Tensor),
        lambda value: value.to(map_location),
    )
    return moved
