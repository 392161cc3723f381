"""What the strategies share when they write a checkpoint."""

import time
from typing import Any

import mmengine
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.runner.checkpoint import save_checkpoint

from mmflora.files import training_checkpoints


def describe_run(
    extra: dict[str, Any] | None, seed: int | None
) -> dict[str, Any]:
    """Return what the runner adds to a checkpoint, with its meta complete.

    Args:
        extra: The runner's part: ``meta`` and ``message_hub``.
        seed: The seed of the run.
    """
    extra = dict(extra or {})
    extra['meta'] = dict(
        extra.get('meta', {}),
        seed=seed,
        time=time.strftime('%Y%m%d_%H%M%S'),
        mmengine=mmengine.__version__,
    )
    return extra


def write_checkpoint(checkpoint: dict[str, Any], filename: str) -> None:
    """Write a checkpoint, a local one in full or not at all.

    Args:
        checkpoint: What to write.
        filename: A path, or the address of a remote backend.

    Raises:
        OSError: If it cannot be written; what was there is still there.
    """
    if type(get_file_backend(filename)) is not LocalBackend:
        save_checkpoint(checkpoint, filename)
        return
    # Straight to the disk: MMEngine's way holds it in memory twice more.
    training_checkpoints.save_checkpoint(checkpoint, filename)
