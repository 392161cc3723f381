"""Writes the page of what benchmarks/gpu.py measured."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.gpu_rows import ROWS, Row

GB = 2**30
HEAD = """# Measured on a GPU

Written by `python benchmarks/gpu.py`, from the files beside it. Each file
names its command, device and versions. Weights are random and batches are
made, which changes neither time nor memory. A step is all that the runner does
for a batch: copying it to the device, forward and backward pass, optimizer.
Times are medians, with the shortest and the longest.
"""
REHEARSAL = """**This is a rehearsal.** It ran without a GPU, or on tiny models
in place of those that are named: its figures mean nothing.
"""
# Who, against whom, in what, at most: of the adapter benchmark.
TARGETS = (
    ('flora', 'frozen', 'time', 1.10),
    ('flora-nodw', 'peft-lora', 'time', 0.90),
    ('flora-nodw-lean', 'peft-lora', 'memory', 0.60),
    ('flora-lean', 'flora', 'time', 1.08),
)
FORECAST_OFF = 10


def page(folder: Path) -> str:
    """Return the page, in Markdown.

    Args:
        folder: Where the files of the rows are.
    """
    results = {}
    for row in ROWS:
        file = folder / f'{row.name}.json'
        if file.exists():
            results[row.name] = json.loads(file.read_text())
    parts = [HEAD]
    if not results:
        parts.append(
            'Nothing has been measured yet. On a machine with a GPU:\n\n'
            '    python benchmarks/gpu.py --minutes 30\n'
        )
        return '\n'.join(parts)
    if any(result['rehearsal'] for result in results.values()):
        parts.append(REHEARSAL)
    parts.append(_machines(results.values()))
    found = {k: r['found'] for k, r in results.items() if 'found' in r}
    if 'adapters' in found:
        parts.append(_adapters(found['adapters']))
    for group, title in (
        ('internvit', 'UperNet on InternViT-6B, ADE20K'),
        ('forecast', 'Whole detectors and segmenters'),
    ):
        rows = [r for r in ROWS if r.group == group and r.name in found]
        if rows:
            parts.append(_steps(title, rows, found))
    if 'switch' in found:
        parts.append(_switch(found['switch']))
    parts.append(_rest(results))
    return '\n'.join(parts)


def _machines(results: Iterable[dict[str, Any]]) -> str:
    """Name devices and versions; more than one of each if rows differ."""
    devices, versions = {}, {}
    for result in results:
        devices[result['device']] = None
        text = ', '.join(f'{k} {v}' for k, v in result['versions'].items())
        versions[text] = None
    return f'{"; ".join(devices)}. {"; ".join(versions)}.\n'


def _adapters(found: dict[str, Any]) -> str:
    rows, setting = found['contenders'], found['setting']
    lines = [
        f'## Adapters: {setting["model"]}, {setting["size"]} px, batch '
        f'{setting["batch"]}, {setting["dtype"]}, rank {setting["rank"]}\n',
        '```',
        report.table(rows),
        '```\n',
        '| target | measured | at most | |\n|---|---|---|---|',
    ]
    for name, other, kind, most in TARGETS:
        value = _ratio(rows, name, other, kind)
        if value is not None:
            met = 'met' if value <= most else '**missed**'
            lines.append(
                f'| {kind} of {rows[name]["label"]} over '
                f'{rows[other]["label"]} | {value:.3f} | {most} | {met} |'
            )
    for name, why in found['left_out'].items():
        lines.append(f'\n{name} was left out: {why}')
    return '\n'.join(lines) + '\n'


def _ratio(
    rows: dict[str, Any], name: str, other: str, kind: str
) -> float | None:
    if kind == 'time':
        return report.time_ratio(rows, name, other)
    if name not in rows or other not in rows:
        return None
    key = 'device_peak' if rows[other]['device_peak'] else 'bytes_peak'
    return float(rows[name][key] / rows[other][key])


def _steps(
    title: str, rows: list[Row], found: dict[str, dict[str, Any]]
) -> str:
    lines = [
        f'## {title}\n',
        '| | images | step s | shortest–longest | peak GB | forecast GB | '
        'off | trained |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        one = found[row.name]
        peak = one.get('peak')
        forecast = one.get('forecast')
        off = '–'
        if peak and forecast:
            percent = 100 * (forecast / peak - 1)
            off = f'{percent:+.1f} %'
            if abs(percent) > FORECAST_OFF:
                off = f'**{off}**'
        lines.append(
            f'| {row.title} | {one["images"]} of {one["height"]} × '
            f'{one["width"]} | {statistics.median(one["times"]):.3f} | '
            f'{min(one["times"]):.3f}–{max(one["times"]):.3f} | '
            f'{_gigabytes(peak)} | {_gigabytes(forecast)} | {off} | '
            f'{one["trained"]:,} |'
        )
    return '\n'.join(lines) + '\n'


def _gigabytes(size: int | None) -> str:
    return f'{size / GB:.2f}' if size else '–'


def _switch(found: dict[str, Any]) -> str:
    times = found['times']
    return (
        '## Switching tasks on one base\n\n'
        f'{len(times)} switches: median {1e3 * statistics.median(times):.2f} '
        f'ms, longest {1e3 * max(times):.2f} ms. The base takes '
        f'{found["base"] / GB:.2f} GB, a task {found["more"] / GB:.2f} GB '
        'more.\n'
    )


def _rest(results: dict[str, dict[str, Any]]) -> str:
    """Say what failed, what was not measured, and with which commands."""
    lines = ['## Rows\n', '| row | what | how it ended |', '|---|---|---|']
    for row in ROWS:
        result = results.get(row.name)
        ended = 'not measured'
        if result:
            failed = result.get('failed')
            said = failed and failed.replace('|', '\\|')
            ended = f'failed: {said}' if failed else f'{result["took"]:.0f} s'
            ended += f'; `{result["command"]}`'
        lines.append(f'| {row.name} | {row.title} | {ended} |')
    return '\n'.join(lines) + '\n'
