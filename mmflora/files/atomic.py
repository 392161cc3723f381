"""A local file backend whose writes either happen in full or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mmengine.fileio import LocalBackend, register_backend

ATOMIC_BACKEND = 'mmflora_atomic_local'


class AtomicLocalBackend(LocalBackend):
    """Writes to a file beside the target, then renames it into place.

    A kill or a full disk while a file is written leaves the file that was
    there before.  Within :meth:`removals_after_success` nothing is removed
    until the block has ended well, so that an old checkpoint outlives the
    attempt to write its successor.
    """

    _pending: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically.

        Args:
            obj: The content.
            filepath: Where to write; folders are made.

        Raises:
            OSError: If the disk is full or not writable; what was there
                before is still there.
        """
        with written_in_full(filepath) as file:
            file.write(obj)

    def put_text(
        self, obj: str, filepath: str | Path, encoding: str = 'utf-8'
    ) -> None:
        """Write text atomically, see :meth:`put`."""
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


@contextmanager
def written_in_full(filepath: str | Path) -> Iterator[IO[bytes]]:
    """Open a file beside the target, which it replaces once it is written.

    Args:
        filepath: Where to write; folders are made.

    Raises:
        OSError: If the disk is full or not writable; what was there before
            is still there.
    """
    target = Path(filepath)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f'.{target.name}.partial')
    try:
        with open(partial, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
