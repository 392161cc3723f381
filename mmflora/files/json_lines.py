"""Logs of one line of JSON for each result.

Several processes append to the file.  A line that a kill left unfinished is
no line; the next one takes its place.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock


def append_line(path: Path, result: Mapping[str, Any]) -> None:
    """Append a line, in full or not at all.

    Args:
        path: The file; it is made if it is not there.
        result: Plain values; numbers that are not finite become ``null``.
    """
    line = json.dumps(_finite(result), allow_nan=False) + '\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{path}.lock'), open(path, 'ab+') as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b'\n') + 1)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines; an unfinished last one is left out.

    Raises:
        ValueError: If another line is damaged.
    """
    if not path.is_file():
        return []
    text = path.read_bytes().decode('utf-8', 'replace')
    results = []
    for number, line in enumerate(text.split('\n')[:-1], 1):
        try:
            result = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"'{path}', line {number}, is damaged ({error}). Remove that "
                'line; its result is then computed again.'
            ) from error
        if not isinstance(result, dict):
            raise ValueError(
                f"'{path}', line {number}, is no result: {line:.60}"
            )
        results.append(result)
    return results


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
