"""Reading adapters that may come from anywhere.

Nothing of a file runs: tensors come through safetensors, descriptions
through JSON.  What does not fit its own description is refused as a whole.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from mmflora.checkpoint.record import content_hash
from mmflora.files.tensor_files import HASH_KEY, read_tensors

from .adapter import AdapterFile
from .convert import from_checkpoint
from .schema import (
    CONFIG_NAME,
    TENSORS_NAME,
    check_config,
    check_file_name,
    check_tensor_name,
)
from .write import METADATA_KEY

_MOST_JSON = 16 * 2**20


def read_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """Read an adapter from a folder or a ``.safetensors`` file.

    Args:
        path: What :func:`mmflora.adapter_files.write_adapter` wrote.

    Returns:
        The adapter, its description in the newest schema.

    Raises:
        FileNotFoundError: If there is nothing, or a part is missing.
        ValueError: If it is damaged, a pickle, of a newer schema, or names
            what an honest file does not.
    """
    place = Path(path)
    beside: Any = None
    if place.is_dir():
        text = _existing(place / CONFIG_NAME, path)
        beside = _parse(_limited(text), str(text))
        file = place / _tensor_file(beside, str(text))
    else:
        file = place
    _existing(file, path)
    _refuse_pickle(file)
    metadata, tensors = read_tensors(file)
    for name in tensors:
        check_tensor_name(name, str(file))
    within = metadata.get(METADATA_KEY)
    config = beside if within is None else _parse(within, str(file))
    if within is None and beside is None:
        raise ValueError(
            f"'{file}' holds no description of an adapter (no metadata "
            f"'{METADATA_KEY}'). Give a file that `tools/adapters.py export` "
            'wrote, or its folder.'
        )
    if within is not None and beside is not None and beside != config:
        print_log(
            f"'{CONFIG_NAME}' in '{place}' differs from the description in "
            f"'{file.name}', which counts: it was edited, or its writing was "
            'interrupted.',
            logger='current',
            level=logging.WARNING,
        )
    checked = check_config(config, str(file))
    # What this version writes has been compared; the first had no hash.
    if HASH_KEY not in metadata and config['schema_version'] > 0:
        _check_tensors(checked, tensors, str(file))
    adapter = AdapterFile(checked, tensors, str(path))
    check_described(adapter)
    return adapter


def check_described(adapter: AdapterFile) -> None:
    """Refuse a description of layers or parameters that are not there.

    Raises:
        ValueError: Names them.
    """
    present = adapter.layers().keys() | adapter.tensors.keys()
    for name, backbone in adapter.config['backbones'].items():
        prefix = f'{name}.' if name else ''
        names = [
            *(backbone.get('layers') or ()),
            *(backbone.get('tuned') or ()),
        ]
        absent = [key for key in names if prefix + key not in present]
        if absent:
            raise ValueError(
                f"'{adapter.path}' describes {len(absent)} layers or "
                f"parameters of backbone '{name}' without tensors, such as "
                f'{absent[0]!r}. Take another copy of the file.'
            )


def _existing(file: Path, path: str | os.PathLike[str]) -> Path:
    if not file.is_file():
        raise FileNotFoundError(
            f"Adapter not found: '{path}' (looked for '{file.absolute()}'). "
            f'Give a .safetensors file, or a folder with {CONFIG_NAME} and '
            f'{TENSORS_NAME}.'
        )
    return file


def _limited(file: Path) -> str:
    size = file.stat().st_size
    if size > _MOST_JSON:
        raise ValueError(
            f"'{file}' has {size} bytes; a description has at most "
            f'{_MOST_JSON}. It is no {CONFIG_NAME}.'
        )
    return file.read_bytes().decode('utf-8', errors='replace')


def _parse(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"'{path}': the description is damaged or truncated, no JSON "
            f'({error}). Take another copy of it.'
        ) from error


def _tensor_file(config: Any, path: str) -> str:
    config = config if isinstance(config, dict) else {}
    tensors = config.get('tensors')
    named = tensors if isinstance(tensors, dict) else config
    return check_file_name(named.get('file', TENSORS_NAME), path)


def _refuse_pickle(file: Path) -> None:
    with open(file, 'rb') as stream:
        head = stream.read(9)
    # A .safetensors file starts with the length of its JSON head, which may
    # happen to look like a pickle; its ninth byte opens that JSON.
    if head[8:] != b'{' and (head[:2] == b'PK' or head[:1] == b'\x80'):
        raise ValueError(
            f"'{file}' is a pickle or an archive of one, whatever its name: "
            'reading it could run anything, so it was not read. An adapter '
            'is a .safetensors file; of a training checkpoint, '
            '`tools/adapters.py export` makes one.'
        )


def _check_tensors(
    config: dict[str, Any], tensors: dict[str, Tensor], path: str
) -> None:
    wanted = config['tensors'].get('sha256')
    content = content_hash(tensors)
    if content != wanted:
        raise ValueError(
            f"'{path}': the tensors (SHA-256 {content}) are not those that "
            f'the description names (SHA-256 {wanted}): one of them was '
            'changed or damaged. Take another copy of both.'
        )


def read_any(path: str | os.PathLike[str]) -> AdapterFile:
    """Read an adapter, or make one of a training checkpoint.

    Args:
        path: A folder, a ``.safetensors`` file, or a checkpoint, which is
            told by its ``.pth``.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is neither, or damaged.
    """
    if Path(path).suffix == '.pth':
        return from_checkpoint(path)
    return read_adapter(path)
