"""How MMEngine reads files while mmflora is imported: safely, adapters too.

MMEngine's own loaders read what ``torch.load(weights_only=True)`` refuses by
unpickling it whole, which runs whatever the file says.  The functions here
take their place, see :mod:`mmflora.side_effects`.  So training, testing,
``init_detector``, ``init_model`` and the inferencers read checkpoints of
strangers safely, and adapters in either form like any checkpoint.
"""

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import apply_to

from mmflora.files.downloads import download
from mmflora.files.pickles import read_safely
from mmflora.files.sources import read_file
from mmflora.files.stored_tensors import FOLDER_CHECKPOINT
from mmflora.files.tensor_files import read_head

from .convert import to_checkpoint
from .read import read_adapter
from .schema import CONFIG_NAME
from .write import METADATA_KEY


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an adapter: a folder of one, or its tensors.

    Files of weights end in ``.safetensors`` too; an adapter's describes it in
    its metadata, or in a file beside it.
    """
    place = Path(os.path.expanduser(path))
    if place.is_dir():
        return (place / CONFIG_NAME).is_file()
    if place.suffix != '.safetensors' or not place.is_file():
        return False
    try:
        return METADATA_KEY in read_head(place)[0]
    except ValueError:
        return False  # its reader says what is wrong


def load_from_local(
    filename: str, map_location: Any = None, mmap: bool = False
) -> Any:
    """Load a checkpoint, an adapter, or weights as ``.safetensors``.

    Args:
        filename: A file, or the folder of an adapter.
        map_location: As for ``torch.load``.
        mmap: Map a file of weights instead of reading it.

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
            f"'{os.path.abspath(path)}'). Give a file, such as "
            f"'{FOLDER_CHECKPOINT}' in DeepSpeed's folder, or the folder of "
            'an adapter.'
        )
    return read_file(path, map_location, mmap)


def load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, **_: Any
) -> Any:
    """Load a file from the web, as MMEngine's function of this name does.

    Raises:
        ValueError: If it is damaged, or could run code.
    """
    return load_from_local(download(url, model_dir), map_location)


def load_torch_file(
    file: Any, map_location: Any = None, weights_only: bool | None = None
) -> Any:
    """Load a file, or what an object store holds, for MMEngine's loaders.

    Raises:
        ValueError: If it is damaged, or could run code.
    """
    if isinstance(file, (str, os.PathLike)):
        return read_safely(file, map_location)
    return read_safely('the downloaded file', map_location, content=file)


def _moved(checkpoint: dict[str, Any], map_location: Any) -> dict[str, Any]:
    if map_location in (None, 'cpu'):
        return checkpoint
    moved: dict[str, Any] = apply_to(
        checkpoint,
        lambda value: isinstance(value, torch.Tensor),
        lambda value: value.to(map_location),
    )
    return moved
