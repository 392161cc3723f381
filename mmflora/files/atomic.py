"""Files that appear under their name only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend

ATOMIC_BACKEND = 'mmflora_atomic_local'


@contextmanager
def staged_file(target: str | os.PathLike[str]) -> Iterator[Path]:
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
    # The next attempt replaces what a kill leaves.
    partial = target.with_name(f'.{target.stem}.partial{target.suffix}')
    try:
        yield partial
        with open(partial, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, see :func:`staged_file`."""
    with staged_file(path) as partial:
        partial.write_text(text, encoding='utf-8')


def write_figure(path: str | os.PathLike[str], figure: Any, dpi: int) -> None:
    """Write a figure of Matplotlib, see :func:`staged_file`.

    Args:
        path: The picture to write, of a type that Matplotlib knows by its
            suffix.
        figure: The figure.
        dpi: Pixels per inch of its size.
    """
    with staged_file(path) as partial:
        figure.savefig(partial, dpi=dpi)


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written in full or not at all.

    Within :meth:`removals_after_success` nothing is removed until the block
    has ended well, so that an old checkpoint outlives the attempt to write
    its successor.
    """

    _pending: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes, see :func:`staged_file`."""
        with staged_file(filepath) as partial:
            partial.write_bytes(obj)

    def put_text(
        self, obj: str, filepath: str | Path, encoding: str = 'utf-8'
    ) -> None:
        """Write text, see :func:`staged_file`."""
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, at once or when the block has ended well."""
        if self._pending is None:
            super().remove(filepath)
        else:
            self._pending.append(str(filepath))

    @contextmanager
    def removals_after_success(self) -> Iterator[None]:
        """Hold back removals until the block has ended without an error."""
        if self._pending is not None:  # already within such a block
            yield
            return
        self._pending = []
        try:
            yield
        except BaseException:
            self._pending = None
            raise
        pending, self._pending = self._pending, None
        for filepath in pending:
            super().remove(filepath)
