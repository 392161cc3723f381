"""What command lines hold: ``--cfg-options KEY=VALUE``, and numbers."""

import math
import re
import shlex
from typing import Any

from mmengine.config import DictAction

_SUFFIXES = {'': 1, 'k': 1e3, 'M': 1e6, 'G': 1e9}


class ConfigOptions(DictAction):
    """MMEngine's action, which takes blanks out of every value.

    A value with blanks that is no list stays as it is, and so does one with
    blanks or commas between quotation marks of its own, ``key='"a, b"'``.
    """

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        inner = val.strip('\'"')
        quoted = inner != val
        split = ',' in inner and not quoted
        if split or inner[:1] in ('[', '(') or not {' ', ','} & {*inner}:
            return DictAction._parse_iterable(val)
        return inner


def option(key: str, value: object) -> str:
    """Return ``--cfg-options`` with one setting, to be pasted in a shell."""
    text = f'"{value}"' if ',' in str(value) else value
    return '--cfg-options ' + shlex.quote(f'{key}={text}')


def parse_count(text: str, what: str) -> float:
    """Read a number of parameters such as ``12.94M``, ``200k`` or ``4857349``.

    Args:
        text: A number, with the suffix k, M or G (a thousand, a million, a
            milliard) or none.
        what: What the number is, for the error.

    Raises:
        ValueError: If it is no such number, or not above zero.
    """
    match = re.fullmatch(r'(\d+\.?\d*|\.\d+)([kMG]?)', text.strip())
    value = float(match[1]) * _SUFFIXES[match[2]] if match else 0.0
    if not 0 < value < math.inf:
        raise ValueError(
            f'{what}: {text!r} is no number of parameters. Give one above '
            'zero, such as 12.94M, 200k or 4857349 (k, M and G stand for a '
            'thousand, a million and a milliard).'
        )
    return value
