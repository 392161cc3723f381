"""Starts the processes that measure trainings and inference."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .workspace import Workspace

HERE = Path(__file__).parent


def iterations_of(
    place: Workspace,
    configs: Sequence[Path],
    iterations: int,
    repeats: int = 3,
) -> dict[str, dict[str, Any]]:
    """Measure configs in one process; see iterations.py.

    Args:
        place: The folder.
        configs: The configs.
        iterations: How many iterations of each count.
        repeats: How many checkpoints and validations of each.

    Returns:
        What was measured, by the config's path.
    """
    out = place.folder / 'iterations.json'
    place.run(
        *(HERE / 'iterations.py', *configs, '--out', out),
        *('--iterations', str(iterations), '--repeats', str(repeats)),
        *('--keep', place.folder / 'trained'),
    )
    found: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return found


def join(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put what several turns have measured into one."""
    names = dict.fromkeys(name for turn in turns for name in turn['shares'])
    joined = dict(turns[0])
    joined['shares'] = {
        name: [pair for turn in turns for pair in turn['shares'][name]]
        for name in names
    }
    for kind in ('checkpoint', 'validation'):
        times = {
            key: [value for turn in turns for value in turn[kind][key]]
            for key in ('seconds', 'cpu')
        }
        joined[kind] = {**turns[0][kind], **times}
    return joined


def inference_of(
    place: Workspace, case: str, files: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Measure loading and inference; see inference.py.

    Args:
        place: The folder.
        case: The toolkit.
        files: The files of weights, by side.

    Returns:
        What was measured, by side.
    """
    folder = place.folder / 'data/shapes/target/coco/val2017'
    out = place.folder / 'inference.json'
    adapted = place.config(case, 'adapted')
    models = {
        'stock': (place.config(case, 'stock'), files['stock']),
        'adapted': (adapted, files['adapted']),
        'merged': ('merged.py', files['merged']),
    }
    place.run(
        *(HERE / 'inference.py', case, sorted(folder.iterdir())[0], out),
        *(f'{name}={",".join(both)}' for name, both in models.items()),
    )
    found: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return found
