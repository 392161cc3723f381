"""What command lines hold, and how the errors of users end a tool."""

import argparse
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config, DictAction

from mmflora.files.trust import OPTION

_EXAMPLE = 'model.backbone.lean=True'
_SUFFIXES = {'': 1, 'k': 1e3, 'M': 1e6, 'G': 1e9}


class ConfigOptions(DictAction):
    """MMEngine's action, which takes blanks out of every value.

    A value with blanks that is no list stays as it is, and so does one with
    blanks or commas between quotation marks of its own, ``key='"a, b"'``.
    A word that is no setting is an error that names it.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Read the words after the option."""
        for word in values or ():
            self._check(word)
        super().__call__(parser, namespace, values, option_string)

    def _check(self, word: str) -> None:
        key, equals, value = word.partition('=')
        if not (key and equals):
            text = f'{word!r} is no KEY=VALUE, such as {_EXAMPLE}.'
            if re.search(r'\.(py|pth|pt|safetensors)$|::|/', word):
                text += (
                    ' Arguments without a name, such as the config, go before '
                    f'{self.option_strings[0]}.'
                )
            raise argparse.ArgumentError(self, text)
        try:
            self._parse_iterable(value)
        except AssertionError as error:
            raise argparse.ArgumentError(
                self, f'{word!r}: its brackets do not match.'
            ) from error

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        inner = val.strip('\'"')
        quoted = inner != val
        split = ',' in inner and not quoted
        if split or inner[:1] in ('[', '(') or not {' ', ','} & {*inner}:
            return DictAction._parse_iterable(val)
        return inner


@contextmanager
def user_errors(*more: type[Exception]) -> Iterator[None]:
    """End the process with a message, without traceback, on a user's error.

    These are what bad input, a full disk and a package that is not installed
    raise.  Every tool checks and reads within it; a training or a test runs
    outside, where the place of an error counts.

    Args:
        *more: Errors that are a user's in this tool alone.
    """
    usual = (ImportError, OSError, TypeError, ValueError)
    kinds: tuple[type[Exception], ...] = (*usual, *more)
    try:
        yield
    except kinds as error:
        sys.exit(f'error: {error}')


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets files run code while they are read."""
    parser.add_argument(
        OPTION,
        action='store_true',
        help='read checkpoints that hold other objects than tensors and '
        'plain values, too: they can run any code that their author chose',
    )


def option(key: str, value: object) -> str:
    """Return ``--cfg-options`` with one setting, to be pasted in a shell."""
    text = f'"{value}"' if ',' in str(value) else value
    return '--cfg-options ' + shlex.quote(f'{key}={text}')


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Change settings of a config, named by their place in it.

    Args:
        cfg: The config.
        options: Such as ``{'model.backbone.lean': True}``; numbers in a key
            count into lists.

    Raises:
        ValueError: If a key leads nowhere; says where it ends, and what to
            write.
    """
    try:
        cfg.merge_from_dict(dict(options))
    except (AttributeError, KeyError, TypeError) as error:
        for key, value in options.items():
            reason = _dead_end(cfg.to_dict(), key, value)
            if reason:
                raise ValueError(
                    f'--cfg-options {key}={value}: {reason}'
                ) from error
        words = ' '.join(f'{key}={value}' for key, value in options.items())
        raise ValueError(
            f'--cfg-options {words}: they do not go together, or not into '
            f'the config ({type(error).__name__}: {error}).'
        ) from error


def _dead_end(node: Any, key: str, value: Any) -> str:
    """Return where a key ends in a config before it should, and why."""
    names = key.split('.')
    for depth, name in enumerate(names):
        place, rest = '.'.join(names[:depth]), '.'.join(names[depth:])
        if isinstance(node, Mapping):
            if name not in node:
                return ''
            node = node[name]
        elif not isinstance(node, list | tuple):
            return (
                f'{place} is {node!r:.60} ({type(node).__name__}), no dict '
                f"that could have {rest!r}. Replace it in the config's file."
            )
        elif not name.isdigit():
            return (
                f'{place} is a list of {len(node)}, so an index comes before '
                f'{rest!r}: {place}.0.{rest}={value}'
            )
        elif int(name) >= len(node):
            return (
                f'{place} is a list of {len(node)}: there is no {name}; the '
                f'last one is {len(node) - 1}.'
            )
        elif depth == len(names) - 1:
            return (
                f'an item of a list cannot be replaced. Set the whole list, '
                f'{place}="[…]", or a key of an item that is a dict: '
                f'{key}.KEY=VALUE'
            )
        else:
            node = node[int(name)]
    return ''


def check_device(text: str, what: str) -> None:
    """Check that something can be computed on a device.

    Args:
        text: Its name for PyTorch, such as ``cuda:1``.
        what: What names it, for the error.

    Raises:
        ValueError: If it is no device, or is not here.
    """
    import torch

    try:
        torch.zeros(1, device=text).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition('\n')[0]
        count = torch.cuda.device_count()
        gpus = [f'cuda:{index}' for index in range(count)]
        raise ValueError(
            f'{what}: {text!r} cannot be used here ({reason}). There is '
            f'{", ".join(["cpu", *gpus])}.'
        ) from error


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
