"""Files that appear under their name only when they are whole and checked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_file(target: str | Path) -> Iterator[Path]:
    """Give a path beside the target; rename it to the target at the end.

    An error within the block, a kill or a full disk leave what was there
    before.

    Args:
        target: The file to write; its folder is made.

    Yields:
        Where to write it, with the target's suffix.

    Raises:
        OSError: If the disk is full or not writable.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(
        f'.{target.stem}.{os.getpid()}.partial{target.suffix}'
    )
    try:
        yield partial
        with open(partial, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
