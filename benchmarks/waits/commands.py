"""Whole commands, those of both sides in turns: start, test, merge."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .clock import OUT
from .workspace import METHOD, ROOT, Workspace, stock_tool

Words = Sequence[str | Path]
TRAIN, TEST = ROOT / 'tools/train.py', ROOT / 'tools/test.py'


def time_command(place: Workspace, words: Words) -> dict[str, float]:
    """Run a Python file; return its seconds, and those of the processor.

    The processor's are those of the process and of all that it started and
    waited for.

    Raises:
        RuntimeError: If it fails.
    """
    clock = Path(place.environment[OUT])
    clock.unlink(missing_ok=True)
    log = place.folder / 'command.log'
    with log.open('w') as file:
        started, date = time.perf_counter(), time.time()
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=place.folder,
            env=place.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        passed = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(
            f'{" ".join(map(str, words))}: exit status {process.returncode}'
            f'\n{log.read_text(errors="replace")[-2000:]}'
        )
    found = dict(seconds=passed, cpu=usage.ru_utime + usage.ru_stime)
    if clock.exists():
        marks = json.loads(clock.read_text())
        found = dict(seconds=marks['begins'] - date, cpu=marks['cpu'])
        found |= {key: marks[key] - date for key in ('read', 'built')}
    return found


def interleave(
    place: Workspace, commands: Mapping[str, Words], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Run commands in turns; return each one's values of all rounds.

    One round before counts for none, as it fills the caches of the disk; it is
    left out where there is but one.
    """
    names = list(commands)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for turn in range(-1 if rounds > 1 else 0, rounds):
        # Each round starts with the next one: nobody always follows another.
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            values = time_command(place, commands[name])
            if turn >= 0:
                for key, value in values.items():
                    found[name].setdefault(key, []).append(value)
    return found


def start_commands(place: Workspace, case: str) -> dict[str, Words]:
    """Return the commands that are stopped at their first iteration."""
    stock = place.config(case, 'stock', clocked=True)
    return {
        'stock': (stock_tool(case, 'train.py'), stock),
        'tools/train.py': (TRAIN, stock),
        'tools/train.py --peft': (TRAIN, stock, '--peft', METHOD),
        'adapted config': (TRAIN, place.config(case, 'adapted', clocked=True)),
    }


def test_commands(
    place: Workspace, case: str, files: Mapping[str, str]
) -> dict[str, Words]:
    """Return the commands that test.

    Args:
        place: The folder.
        case: The toolkit.
        files: The files of weights, by side.
    """
    stock = place.config(case, 'stock')
    adapted = place.config(case, 'adapted')
    return {
        'stock': (stock_tool(case, 'test.py'), stock, files['stock']),
        'tools/test.py': (TEST, stock, files['stock']),
        'checkpoint': (TEST, adapted, files['adapted']),
        'adapter file': (TEST, adapted, files['adapter']),
        'merged': (stock_tool(case, 'test.py'), 'merged.py', files['merged']),
    }


def merge_command(place: Workspace, case: str, file: str) -> Words:
    """Return the command that merges a checkpoint into ``merged.pth``."""
    return (
        *(ROOT / 'tools/merge.py', place.config(case, 'adapted'), file),
        *('--out', 'merged.pth', '--out-config', 'merged.py'),
    )


def export_adapter(place: Workspace, file: str) -> str:
    """Write the adapter file of a checkpoint; return its name."""
    out = 'adapter.safetensors'
    place.run(ROOT / 'tools/adapters.py', 'export', file, out)
    return out
