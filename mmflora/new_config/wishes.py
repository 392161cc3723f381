"""What the user asks for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .splits import DEFAULT_PARTS


@dataclass
class Wishes:
    """What the user asks for; see ``tools/new_config.py --help``."""

    data: str
    like: str | None
    out: str
    peft: str | None = None
    peft_parts: Sequence[str] | None = None
    base: str | None = None
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


def check_wishes(wishes: Wishes, out: Path) -> None:
    """Check what can be checked before anything is read.

    Raises:
        ValueError: If an option is out of range, the config is there already,
            or it would stand among the data.
    """
    if out.suffix != '.py' or '.' in out.stem:
        raise ValueError(
            f"--out is '{out}'. Give a file name that ends in .py and has no "
            'other dot, such as my_config.py'
        )
    if out.exists() and not wishes.force:
        raise ValueError(
            f"--out: '{out}' is there already. Give another name, or --force "
            'to replace it and what stands beside it.'
        )
    folder = Path(os.path.abspath(wishes.data))
    if folder in Path(os.path.abspath(out)).parents:
        raise ValueError(
            f"--out: '{out}' is in the folder of the data, which is not "
            'changed. Give a file elsewhere.'
        )
    for name in ('peft_parts', 'base'):
        if getattr(wishes, name) is not None and wishes.peft is None:
            option = '--' + name.replace('_', '-')
            raise ValueError(f'{option} goes with --peft METHOD.')
    for name in ('batch_size', 'gpus', 'epochs'):
        value = getattr(wishes, name)
        if value is not None and value < 1:
            option = '--' + name.replace('_', '-')
            raise ValueError(f'{option} is {value}; it must be 1 or more.')
    train, val, test = wishes.split
    if min(wishes.split) < 0 or train <= 0 or val + test <= 0:
        raise ValueError(
            f'--split is {train:g} {val:g} {test:g}. Give three parts such as '
            '0.7 0.15 0.15: none below 0, some for training, and some for '
            'validation or test.'
        )
