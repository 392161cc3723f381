"""Reading training checkpoints, whoever they come from."""

import os
from collections.abc import Mapping
from typing import Any

from .pickles import read_safely
from .sources import check_source


def load_checkpoint(
    path: str | os.PathLike[str], bare: bool = False
) -> dict[str, Any]:
    """Read a training checkpoint without running what it may hold.

    Args:
        path: A file that training wrote, with mmflora's hook or MMEngine's.
        bare: Take a file that is nothing but a state dict, too.

    Returns:
        With ``state_dict`` in it.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or holds objects of other kinds, see
            :mod:`mmflora.files.pickles`.
    """
    name = os.fspath(path)
    check_source(name)
    checkpoint = read_safely(name, 'cpu')
    if bare and isinstance(checkpoint, Mapping):
        checkpoint = {'state_dict': checkpoint, **checkpoint}
    if not isinstance(checkpoint, dict) or not isinstance(
        checkpoint.get('state_dict'), Mapping
    ):
        raise ValueError(
            f"'{name}' has no `state_dict`: it is no training checkpoint. "
            'Give a file that `tools/train.py` wrote.'
        )
    return checkpoint
