"""What the user asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from .splits import DEFAULT_PARTS


@dataclass
class Wishes:
    """What the user asks for; see ``tools/new_config.py --help``."""

    data: str
    like: str | None
    out: str
    peft: str | None = None
    format: str | None = None
    task: str | None = None
    classes: Sequence[str] | None = None
    ignore: Sequence[int] = ()
    resplit: bool = False
    split: Sequence[float] = DEFAULT_PARTS
    seed: int = 0
    batch_size: int | None = None
    gpus: int = 1
    epochs: int | None = None
    force: bool = False
