"""Writing adapters: in full, or not at all."""

import json
import os
import re
from pathlib import Path
from typing import Any

from mmflora.checkpoint.record import content_hash
from mmflora.files.atomic import write_text
from mmflora.files.tensor_files import write_tensors

from .adapter import AdapterFile, bytes_of, contiguous
from .schema import (
    CONFIG_NAME,
    TENSORS_NAME,
    check_config,
    check_tensor_name,
    plain_json,
)

METADATA_KEY = 'mmflora'


def write_adapter(adapter: AdapterFile, path: str | os.PathLike[str]) -> Path:
    """Write an adapter to a folder, or to one ``.safetensors`` file.

    The description is in the metadata of the tensors' file.  So this file is
    complete by itself, and one rename puts it in place: a reader always finds
    the old adapter or the new one.  A folder holds
    the same description as ``adapter_config.json`` to read and search.

    Args:
        adapter: The adapter.
        path: A name that ends in ``.safetensors``, or a folder, which is
            made if need be.

    Returns:
        The path.

    Raises:
        OSError: If the disk is full or not writable; what was there before
            is still there.
        ValueError: If the name has another suffix of a file, or a tensor's
            name is no key of a model.
    """
    target = Path(path)
    single = target.suffix == '.safetensors'
    if not single and re.fullmatch(
        r'\.(pth?|pkl|bin|json|ckpt)', target.suffix
    ):
        raise ValueError(
            f"Adapters are not written as '{target.suffix}' files, got "
            f"'{target}'. Name a folder, or a file that ends in "
            '.safetensors; `tools/adapters.py import` writes .pth.'
        )
    for name in adapter.tensors:
        check_tensor_name(name, str(target))
    tensors = {
        key: contiguous(adapter.tensors[key]) for key in adapter.tensors
    }
    config = described(adapter.config, tensors)
    check_config(config, str(target))
    text = json.dumps(config, indent=2, ensure_ascii=False) + '\n'
    file = target if single else target / TENSORS_NAME
    write_tensors(file, tensors, {METADATA_KEY: text})
    if not single:
        write_text(target / CONFIG_NAME, text)
    return target


def described(
    config: dict[str, Any], tensors: dict[str, Any]
) -> dict[str, Any]:
    """Return a description that fits the tensors."""
    plain = plain_json(config)
    plain['tensors'] = dict(
        file=TENSORS_NAME,
        count=len(tensors),
        bytes=bytes_of(tensors.values()),
        sha256=content_hash(tensors),
    )
    return plain
