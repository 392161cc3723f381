"""Whether files may run code while they are read: only if the user allows it.

Pickles, and the text of a config in a checkpoint, can run any code.  The
readers here only read values, unless the files are trusted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OPTION = '--trust-checkpoints'
REMEDY = (
    'If you trust the author of the file, give the tool that reads it (each '
    f'of mmflora but tools/study.py) the option {OPTION}; in Python, read it '
    'within `mmflora.checkpoint.trusted_checkpoints()`.'
)
_TRUSTED: ContextVar[bool] = ContextVar('trusted', default=False)


@contextmanager
def trusted_checkpoints(trust: bool = True) -> Iterator[None]:
    """Read whatever files hold, within a ``with`` block.

    Reading such a file may run any code that its author chose.

    Args:
        trust: ``False`` to change nothing.
    """
    token = _TRUSTED.set(trust or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted() -> bool:
    """Return whether the files that are read now may run code."""
    return _TRUSTED.get()
