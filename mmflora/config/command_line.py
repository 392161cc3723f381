"""``--cfg-options KEY=VALUE``: read as MMEngine does, but paths stay whole."""

import shlex
from typing import Any

from mmengine.config import DictAction


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
