"""Shared by tools that print a report: nothing else goes to the output."""

import contextlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import MMLogger

from .command_line import user_errors


def print_report(report: Callable[[], str]) -> None:
    """Print a report; what libraries print on the way is not part of it.

    Args:
        report: Returns the text.  A user's error ends the process with its
            message.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with (
            user_errors(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sys.stderr),
        ):
            warnings.simplefilter('ignore')
            text = report()
    finally:
        logger.setLevel(level)
    print(text)


def check_folder(option: str, path: str | None) -> None:
    """Check that a file can be written, if an option asks for one.

    Raises:
        FileNotFoundError: If its folder is not there.
    """
    if path and not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{option}: the folder of '{path}' is not there."
        )
