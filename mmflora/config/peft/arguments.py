"""``--peft`` and what goes with it, for every tool that reads a config."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmflora.files.atomic import write_text

from ..build import read_config
from .changes import changes_table
from .entry import adapt_config


def add_peft_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--peft``, ``--peft-parts`` and ``--base``."""
    parser.add_argument(
        '--peft',
        metavar='METHOD',
        help='freeze the base of any config and adapt it by this method: a '
        "name of configs/_base_/methods, such as flora-r16; a method's file; "
        'or settings, such as "dict(type=\'FLoRA\', rank=8)"',
    )
    parser.add_argument(
        '--peft-parts',
        nargs='+',
        metavar='PART[=METHOD]',
        help="with --peft: the model's modules to freeze and adapt, by path "
        'or pattern, such as backbone encoder decoder=lora-r8 (default: the '
        'backbone)',
    )
    parser.add_argument(
        '--base',
        metavar='FILE',
        help='with --peft: the checkpoint to freeze, of a whole model or of '
        'its backbone alone (default: the weights that the config names)',
    )


def read_adapted(
    config: str,
    args: argparse.Namespace,
    options: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> Config:
    """Read a config, adapt it as the command line says, and say how.

    Settings of the method and of parts are changed after that, all others
    before, as they are written in the config.

    Args:
        config: Its path or zoo name.
        args: With the options of :func:`add_peft_arguments`.
        options: What ``--cfg-options`` changes.
        weights: Whether to read weights; counting needs none.

    Raises:
        FileNotFoundError: If a file is missing.
        TypeError: If a setting of the method is unknown.
        ValueError: If the options do not fit, or the config cannot be
            adapted.
    """
    if args.peft is None:
        for name in ('peft_parts', 'base'):
            if getattr(args, name) is not None:
                option = '--' + name.replace('_', '-')
                raise ValueError(f'{option} goes with --peft METHOD.')
        return read_config(config, options)
    late = {k: v for k, v in (options or {}).items() if _is_late(k)}
    early = {k: v for k, v in (options or {}).items() if k not in late}
    cfg, changes = adapt_config(
        read_config(config, early),
        args.peft,
        args.peft_parts and parse_parts(args.peft_parts),
        args.base,
        weights,
    )
    if os.environ.get('RANK', '0') == '0':
        print(
            f'What --peft changed:\n{changes_table(changes)}\n',
            file=sys.stderr,
            flush=True,
        )
    return read_config(cfg, late)


def parse_parts(texts: list[str]) -> dict[str, str | None]:
    """Return the method of each part; ``None`` for that of ``--peft``."""
    parts = {}
    for text in texts:
        part, _, method = text.partition('=')
        parts[part] = method or None
    return parts


def dump_config(cfg: Config, path: str) -> None:
    """Write a config, in full or not at all.

    Raises:
        FileNotFoundError: If its folder is not there.
        ValueError: If the name is not one of a config.
    """
    if not path.endswith('.py'):
        raise ValueError(f"--dump is '{path}': give a .py file.")
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(
            f"--dump: the folder of '{path}' is not there."
        )
    write_text(path, cfg.pretty_text)


def _is_late(key: str) -> bool:
    return bool({'peft', 'parts'} & set(key.split('.')))
