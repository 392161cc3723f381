"""Training checkpoints: reading and writing them, and finding the newest."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from .atomic import staged_file
from .pickles import read_safely
from .sources import check_source, is_local
from .stored_tensors import FOLDER_CHECKPOINT

LAST = 'last_checkpoint'
"""The file of a work directory that names the last checkpoint."""


def checkpoint_file(path: str | os.PathLike[str]) -> str:
    """Return the file of a checkpoint, which DeepSpeed keeps in a folder.

    Returns:
        The ordinary checkpoint in such a folder; any other path itself.
    """
    inner = os.path.join(os.path.expanduser(path), FOLDER_CHECKPOINT)
    return inner if os.path.isfile(inner) else os.fspath(path)


def load_checkpoint(
    path: str | os.PathLike[str], bare: bool = False
) -> dict[str, Any]:
    """Read a training checkpoint without running what it may hold.

    Args:
        path: What training wrote, with mmflora's hook or MMEngine's: a file,
            or DeepSpeed's folder.
        bare: Take a file that is nothing but a state dict, too.

    Returns:
        With ``state_dict`` and ``meta`` in it.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or holds objects of other kinds, see
            :mod:`mmflora.files.pickles`.
    """
    name = checkpoint_file(path)
    check_source(name)
    checkpoint = read_safely(name, 'cpu')
    if bare and isinstance(checkpoint, Mapping):
        checkpoint = {'state_dict': checkpoint, **checkpoint}
    return checked_checkpoint(checkpoint, name)


def checked_checkpoint(checkpoint: Any, path: str) -> dict[str, Any]:
    """Return what was read, if it is a training checkpoint.

    Args:
        checkpoint: What a file holds.
        path: The file, for the error.

    Raises:
        ValueError: If it has no ``state_dict``, or something else stands
            there or under ``meta``.
    """
    known = checkpoint if isinstance(checkpoint, Mapping) else {}
    state, meta = known.get('state_dict'), known.get('meta')
    if not isinstance(state, Mapping):
        raise ValueError(
            f"'{path}' has no `state_dict`: it is no training checkpoint. "
            'Give a file that `tools/train.py` wrote.'
        )
    odd = [key for key in state if not isinstance(key, str)]
    if odd or not isinstance(meta, (Mapping, type(None))):
        what = f'the key {odd[0]!r}' if odd else f'meta={meta!r:.60}'
        raise ValueError(
            f"'{path}' is damaged: it holds {what}, where a training "
            'checkpoint has names and settings. Take another copy of it.'
        )
    return {**known, 'meta': dict(meta or {})}


def save_checkpoint(
    checkpoint: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Write a checkpoint to the disk, in full or not at all.

    Raises:
        OSError: If it cannot be written; what was there is still there.
    """
    with staged_file(path) as partial:
        torch.save(checkpoint, partial)


def find_newest(folder: str | os.PathLike[str]) -> str | None:
    """Return the checkpoint from which a training goes on.

    It is the one that ``last_checkpoint`` names.  Where that file is missing,
    empty or outdated, or names a damaged checkpoint, the newest whole one in
    the folder is taken, and a warning says so.

    Returns:
        A file, or a folder that DeepSpeed wrote; ``None`` where there is
        nothing to go on from.

    Raises:
        ValueError: If there are checkpoints, but none is whole.
    """
    pointer = Path(folder, LAST)
    named = None
    if pointer.is_file():
        text = pointer.read_bytes().decode('utf-8', 'replace').strip('\0 \n')
        if text and not is_local(text):
            return text
        # A work directory may have been moved since.
        places = (Path(text), Path(folder, Path(text).name)) if text else ()
        named = next((place for place in places if place.exists()), None)
    newer = _saved_since(pointer, named, Path(folder))
    candidates = [*newer, *([named] if named else [])]
    candidates += [p for p in _saved(Path(folder)) if p not in candidates]
    damaged = []
    for path in candidates:
        reason = _damage(path)
        if reason:
            damaged.append(reason)
            continue
        if path != named or damaged:
            print_log(
                f"'{pointer}' is missing, damaged or outdated; training "
                f"goes on from '{path}', the newest whole checkpoint."
                + ''.join(f'\nPassed over: {reason}' for reason in damaged),
                logger='current',
                level=logging.WARNING,
            )
        return str(path)
    if damaged or pointer.is_file():
        damaged = damaged or [f"'{pointer}' names none that is there."]
        raise ValueError(
            f"There is no whole checkpoint in '{folder}' to resume from. "
            f'{" ".join(damaged)} Put one there; or, to train from the '
            f"beginning, remove '{pointer}' and the damaged files."
        )
    print_log(
        f"There is nothing in '{folder}' to resume from; training starts at "
        'the beginning.',
        logger='current',
        level=logging.WARNING,
    )
    return None


def _saved(folder: Path) -> list[Path]:
    """Return what checkpoint hooks saved in a folder, the newest first."""
    found = [
        (path.stat().st_mtime, _step(path), path)
        for path in folder.glob('*')
        if re.fullmatch(r'(epoch|iter)_\d+(\.pth)?', path.name)
    ]
    return [path for _, _, path in sorted(found, reverse=True)]


def _saved_since(
    pointer: Path, named: Path | None, folder: Path
) -> list[Path]:
    """Return the checkpoints after whose writing the training was killed.

    They are younger than the file that should name them, and of a later step
    than the one that it does name.
    """
    if named is None:
        return []
    return [
        path
        for path in _saved(folder)
        if path.stat().st_mtime > pointer.stat().st_mtime
        and _step(path) > _step(named)
    ]


def _step(path: Path) -> int:
    digits = path.stem.rpartition('_')[2]
    return int(digits) if digits.isdigit() else -1


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, ``None`` if it is whole."""
    if path.is_dir():  # as DeepSpeed reads it by itself
        return None if any(path.iterdir()) else f"'{path}' is empty."
    try:
        check_source(str(path))
        read_safely(path, 'meta')
    except (OSError, ValueError) as error:
        return str(error)
    return None
