"""Writes the page of what benchmarks/run.py measured."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.line_results import measured_on

Line = Mapping[str, Any]

HEAD = """# What a user waits for

Written by `python benchmarks/run.py`, from [run.jsonl](run.jsonl). {about}

Each number is a median, in seconds, and *(smallest–largest)* its spread. *CPU*
is the time of the processor, of a process and of all that it started. Compare
this one: the machine was shared, and the time that passed says little. The
sides of a comparison took turns. *×* is the median of CPU over that of the
stock side; bold is what is above its bound ({most_start} × for a start,
{most_ours} % of an iteration for mmflora's hooks). Models are small, in one
thread, on pictures of 128 × 128, so that a fixed cost weighs more here than in
a real training.
"""
START = """## From the command to the first iteration

*stock* is the toolkit's own `tools/train.py` on its own config (a ResNet-18 on
small data). Then mmflora's tool on the same config, the same with
`--peft flora-r16`, and on the config that `--dump` writes.
"""
ITERATION = """## An iteration

CPU milliseconds of an iteration and of its shares. *forward* is all of
`train_step` but the backward pass and the optimizer; *loop* is what no share
has. *ours* are the hooks of mmflora, the other hooks those of MMEngine. What
mmflora adds to *data*, a seed for each sample, shows beside the stock side.
The last columns are a checkpoint and the validation of one image, with
adapters that are not merged.
"""
SMALL = """### Small configs

The same for every small config. The first line of a model is its fully trained
one with MMEngine's own hooks and optimizer constructor.
"""
USE = """## Test, merge, inference

*test* and *merge* are whole commands, *inference* is one image by the
toolkit's function, *load* builds a model from its checkpoint.
"""
SHARES = ('data', 'forward', 'backward', 'optimizer')
OURS = 'hook mmflora.'
MOST_OURS, MOST_START = 3, 1.05


def page(lines: Sequence[Line]) -> str:
    """Return the page, in Markdown.

    Args:
        lines: What was measured, as in ``run.jsonl``.
    """
    about = measured_on(lines)
    by_part: dict[str, list[Line]] = {}
    for line in lines:
        by_part.setdefault(line['part'], []).append(line)
    bounds = dict(most_start=MOST_START, most_ours=MOST_OURS)
    parts = [HEAD.format(about=' '.join(about), **bounds)]
    if 'start' in by_part:
        parts += [START, _commands(by_part['start'], MOST_START)]
    if 'iteration' in by_part:
        parts += [ITERATION, _iterations(by_part['iteration'])]
    if 'small' in by_part:
        parts += [SMALL, _iterations(by_part['small'])]
    used = by_part.get('test', []) + by_part.get('merge', [])
    if used:
        parts += [USE, _commands(used)]
    if 'inference' in by_part:
        parts.append(_inference(by_part['inference']))
    return '\n'.join(parts)


def median_of(
    values: Iterable[float], digits: int = 2, scale: float = 1
) -> str:
    """Return the median and the spread of values."""
    known = [scale * value for value in values]
    middle, *spread = (
        f'{value:.{digits}f}'
        for value in (statistics.median(known), min(known), max(known))
    )
    return f'{middle} ({"–".join(spread)})'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _commands(lines: Sequence[Line], most: float | None = None) -> str:
    rows = []
    stock: dict[str, float] = {}
    for line in lines:
        cpu = statistics.median(line['cpu'])
        if line['side'] == 'stock':
            stock[line['case']] = cpu
        told = '–'
        if line['part'] != 'merge':
            ratio = cpu / stock[line['case']]
            told = f'**{ratio:.3f}**' if most and ratio > most else ''
            told = told or f'{ratio:.3f}'
        rows.append(
            (
                *(line['case'], line['part'], line['side']),
                *(median_of(line['seconds']), median_of(line['cpu']), told),
            )
        )
    head = ('toolkit', 'what', 'side', 'passed', 'CPU', '×')
    return _table(head, rows)


def shares_of(line: Line) -> dict[str, float]:
    """Return the median CPU milliseconds of each share, and of ``all``."""
    shares = {
        name: 1e3 * statistics.median(pair[1] for pair in pairs)
        for name, pairs in line['shares'].items()
    }
    whole = zip(*line['shares'].values(), strict=True)
    total = statistics.median(
        1e3 * sum(pair[1] for pair in row) for row in whole
    )
    return shares | dict(all=total)


def ours_of(shares: Mapping[str, float]) -> float:
    """Return the percentage of an iteration that mmflora's hooks take."""
    ours = sum(ms for name, ms in shares.items() if name.startswith(OURS))
    return 100 * ours / shares['all']


def _iterations(lines: Sequence[Line]) -> str:
    head = (
        *('model', 'side', 'iteration', *SHARES, 'other hooks', 'ours'),
        *('ours %', 'loop', 'checkpoint ms', 'MB', 'validation ms'),
    )
    rows = []
    for line in lines:
        shares = shares_of(line)
        hooks = {k: v for k, v in shares.items() if k.startswith('hook ')}
        ours = sum(v for k, v in hooks.items() if k.startswith(OURS))
        percent = f'{ours_of(shares):.1f}'
        if ours_of(shares) > MOST_OURS:
            percent = f'**{percent}**'
        written, checked = line['checkpoint'], line['validation']
        rows.append(
            (
                *(line['case'], line['side'], f'{shares["all"]:.1f}'),
                *(f'{shares[name]:.1f}' for name in SHARES),
                f'{sum(hooks.values()) - ours:.2f}',
                *(f'{ours:.2f}', percent, f'{shares["loop"]:.2f}'),
                f'{1e3 * statistics.median(written["cpu"]):.0f}',
                f'{written["bytes"] / 1e6:.1f}',
                f'{_by_image(checked):.0f}',
            )
        )
    return _table(head, rows)


def _by_image(checked: Line) -> float:
    return 1e3 * statistics.median(checked['cpu']) / checked['images']


def _inference(lines: Sequence[Line]) -> str:
    rows = []
    stock: dict[str, float] = {}
    for line in lines:
        cpu = line['apply']['cpu']
        if line['side'] == 'stock':
            stock[line['case']] = statistics.median(cpu)
        ratio = statistics.median(cpu) / stock[line['case']]
        rows.append(
            (
                *(line['case'], line['side']),
                *(median_of(cpu, 1, 1e3), f'{ratio:.3f}'),
                median_of(line['load']['cpu']),
            )
        )
    head = ('toolkit', 'model', 'inference, CPU ms', '×', 'load, CPU s')
    return _table(head, rows)
