"""Where an adapter comes from: versions of packages, logged metrics."""

import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from mmflora.version import __version__

PACKAGES = ('torch', 'timm', 'onedl-mmengine', 'onedl-mmdetection') + (
    'onedl-mmsegmentation',
    'onedl-mmrotate',
)


def logged_metrics(path: Path) -> dict[str, Any]:
    """Return what validation logged for a checkpoint beside it.

    Args:
        path: The checkpoint in its run's work directory; its name ends in
            the epoch or iteration.

    Returns:
        Metrics by name; nothing where the run did not validate then.
    """
    steps = path.stem.rpartition('_')[2]
    if not steps.isdigit():
        return {}
    found: dict[str, Any] = {}
    for log in sorted(path.parent.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a line that a killed run left
            training_line = {'loss', 'lr', 'epoch', 'iter'} & entry.keys()
            if not training_line and entry.get('step') == int(steps):
                found = {
                    key: value
                    for key, value in entry.items()
                    if key not in ('step', 'time', 'data_time')
                }
    return found


def given_metrics(words: Iterable[str]) -> dict[str, float]:
    """Turn words such as ``mIoU=51.2`` into numbers by name.

    Raises:
        ValueError: If one is no such word.
    """
    metrics = {}
    for word in words:
        name, _, value = word.rpartition('=')
        try:
            metrics[name] = float(value)
        except ValueError:
            name = ''
        if not name:
            raise ValueError(
                f"--metrics {word}: give NAME=NUMBER, such as 'mIoU=51.2'."
            )
    return metrics


def versions() -> dict[str, str]:
    """Return the versions of mmflora and of what it stands on."""
    found = dict(mmflora=__version__)
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
