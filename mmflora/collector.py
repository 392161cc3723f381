"""Imports without Python's garbage collector.

PyTorch and a toolkit make a million objects when they are imported, and none
of them is garbage.  The collector would still walk through them some hundred
times, for a fifth of a start, and through all of them at each later round.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_kept = False


@contextmanager
def paused_collector() -> Iterator[None]:
    """Collect no garbage inside, if it was collected before."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def keep_imports() -> None:
    """Let the collector pass over all objects that there are, for good.

    Only the first call in a process does so: later there are models, which
    may become garbage.
    """
    global _kept
    if not _kept:
        gc.freeze()
        _kept = True
