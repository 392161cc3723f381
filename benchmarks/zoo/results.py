"""What a sweep found, one line of JSON each, so that it can go on later."""

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    'onedl-mmdetection',
    'onedl-mmsegmentation',
    'onedl-mmrotate',
    'torch',
    'transformers',
)


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {package: version(package) for package in PACKAGES}


class Results:
    """The results of one part of a sweep, in a file of its own.

    Args:
        folder: Where the files of all parts stand.
        what: ``'builds'`` or ``'steps'``.
        method: The method that was swept.
        shard: Which part of how many.
        resume: Whether to keep what is there; else it is replaced.

    Raises:
        ValueError: If what is there is of another method.
    """

    def __init__(
        self,
        folder: Path,
        what: str,
        method: str,
        shard: tuple[int, int] = (1, 1),
        resume: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f'{what}.{shard[0]}-of-{shard[1]}.jsonl'
        self.done: dict[str, dict[str, Any]] = {}
        lines = list(_lines(self.file)) if resume else []
        if lines:
            known = lines[0].get('method')
            if known != method:
                raise ValueError(
                    f"--resume: '{self.file}' holds results of {known}, not "
                    f'of {method}. Choose another folder with --results.'
                )
            self.done = {line['name']: line for line in lines[1:]}
        head = dict(method=method, versions=versions())
        text = ''.join(
            f'{json.dumps(line)}\n' for line in (head, *self.done.values())
        )
        partial = self.file.with_suffix('.partial')
        partial.write_text(text)
        os.replace(partial, self.file)

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Write the result of one config or family."""
        self.done[name] = dict(name=name, **result)
        with self.file.open('a') as file:
            file.write(json.dumps(self.done[name]) + '\n')


def read_results(folder: Path, what: str) -> tuple[str, dict[str, Any]]:
    """Read the results of all parts.

    Returns:
        The method, and each result by its name.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are of several methods.
    """
    methods: set[str] = set()
    found: dict[str, Any] = {}
    for file in sorted(folder.glob(f'{what}.*.jsonl')):
        head, *lines = _lines(file)
        methods.add(head['method'])
        found |= {line['name']: line for line in lines}
    if not methods:
        raise FileNotFoundError(
            f"'{folder}' holds no results ({what}.*.jsonl): run the sweep "
            'first, or name its folder with --results.'
        )
    if len(methods) > 1:
        raise ValueError(
            f"'{folder}' holds results of several methods: "
            f'{", ".join(sorted(methods))}. Use a folder for each.'
        )
    return methods.pop(), dict(sorted(found.items()))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, but for one that a kill cut short."""
    text = file.read_text() if file.is_file() else ''
    for line in text.splitlines(keepends=True):
        if line.endswith('\n'):
            yield json.loads(line)
