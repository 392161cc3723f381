"""Formats of other projects' adapters; each registers in its own file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Exchange = Callable[[nn.Module, str], Any]


@dataclass(frozen=True)
class Format:
    """How adapters come into a backbone, and out of it.

    Attributes:
        read: Loads the file or folder at a path into a backbone.
        write: Writes a backbone's adapters to a path; ``None`` if it cannot.
    """

    read: Exchange
    write: Exchange | None = None


FORMATS: dict[str, Format] = {}
"""By the names that ``tools/adapters.py`` knows them by."""


def reader_of(name: str) -> Exchange:
    """Return what reads a format.

    Raises:
        ValueError: If there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(
            f"No adapters are read from '{name}': known are mmflora, "
            f'{", ".join(FORMATS)}.'
        )
    return FORMATS[name].read


def writer_of(name: str) -> Exchange:
    """Return what writes a format.

    Raises:
        ValueError: If there is no such format.
    """
    write = FORMATS[name].write if name in FORMATS else None
    if write is None:
        known = [key for key, value in FORMATS.items() if value.write]
        raise ValueError(
            f"No adapters are written for '{name}': known are mmflora, "
            f'{", ".join(known)}.'
        )
    return write
