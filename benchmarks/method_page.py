"""Writes the page of what benchmarks/methods.py measured."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.line_results import measured_on
from benchmarks.mechanism_rows import FLOOR

Line = Mapping[str, Any]

HEAD = """# Time and memory by mechanism

Written by `python benchmarks/methods.py`, from [methods.jsonl](methods.jsonl).
{about}

Two models of timm over random weights, as each method trains all layers or
blocks that it has a place in. *Time* is a forward and a backward pass, the
median of the rounds' ratios to the frozen model with the gradient of its
input, and *(smallest–largest)* of them: all methods took turns. *Held* is what
is kept for the backward pass, *peak* the most within a step; both count every
storage and are the same on every machine with these versions. `× FLoRA` is a
method's held bytes over FLoRA's.
"""
PASS = """## The pass of data before the first step

A start from the training data sends batches through the frozen model, once,
before training (`calibration`). Seconds of a batch, also over a step of the
frozen model; seconds of making the starts, whatever the number of batches;
bytes at the peak.
"""
HOOK = """## Hooks

What a method's hook takes of a whole step (forward, backward, AdamW){clock}.
*Own* is the time within its calls, over a step without it. *Difference* is
that of steps with and without it, which took turns: what a hook changes for
the step itself is in it, and noise.
"""
MIB = 2**20


def page(lines: Sequence[Line]) -> str:
    """Return the page, in Markdown.

    Args:
        lines: What was measured, as in ``methods.jsonl``.
    """
    about = measured_on(lines)
    parts = [HEAD.format(about='\n'.join(about))]
    steps = _by_case(lines, 'step')
    for model, rows in steps.items():
        parts.append(f'## {_title(model, rows.values())}\n')
        parts.append(table(rows) + '\n')
    passes = _by_case(lines, 'pass')
    if passes:
        parts += [PASS, _passes(passes, steps) + '\n']
    hooks = _by_case(lines, 'hook')
    if hooks:
        cpu = not any('NVIDIA' in line['device'] for line in lines)
        clock = ', in seconds of the processor' if cpu else ''
        parts += [HOOK.format(clock=clock), _hooks(hooks) + '\n']
    return '\n'.join(parts)


def _by_case(
    lines: Iterable[Line], part: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the lines of a part by model and side, in their order."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in lines:
        if line['part'] == part:
            found.setdefault(line['case'], {})[line['side']] = dict(line)
    return found


def _title(model: str, lines: Iterable[Line]) -> str:
    line = next(iter(lines))
    threads = line['threads']
    return (
        f'{model}, {line["size"]} px, batch {line["batch"]}, '
        f'{line["dtype"]}, {threads} thread{"s" * (threads > 1)}'
    )


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the steps of a model as lines of Markdown."""
    lines = [
        '| mechanism | method | trained | time | held | × FLoRA | peak |',
        '| --- | --- | --: | --: | --: | --: | --: |',
    ]
    flora = next((row for name, row in rows.items() if _is_flora(name)), None)
    for method, row in rows.items():
        ratios = report.paired(dict(rows), method, FLOOR) or [1.0]
        share = '–'
        if flora:
            share = f'{row["bytes_held"] / flora["bytes_held"]:.2f}'
        lines.append(
            f'| {row.get("mechanism", "")} | `{method}` '
            f'| {row["trainable"]:,} '
            f'| {statistics.median(ratios):.2f} '
            f'({min(ratios):.2f}–{max(ratios):.2f}) '
            f'| {row["bytes_held"] / MIB:.1f} MiB | {share} '
            f'| {row["bytes_peak"] / MIB:.1f} MiB |'
        )
    return '\n'.join(lines)


def _is_flora(method: str) -> bool:
    return "type='FLoRA'" in method


def _passes(passes: Any, steps: Any) -> str:
    lines = [
        '| model | method | a batch | × frozen | starts | peak |',
        '| --- | --- | --: | --: | --: | --: |',
    ]
    for model, rows in passes.items():
        floor = steps.get(model, {}).get(FLOOR)
        for method, row in rows.items():
            batch, ratio = row['batch_seconds'], '–'
            if floor:
                ratio = f'{batch / statistics.median(floor["times"]):.2f}'
            lines.append(
                f'| {model} | `{method}` | {batch:.2f} s | {ratio} '
                f'| {row["start_seconds"]:.2f} s '
                f'| {row["bytes_peak"] / MIB:.1f} MiB |'
            )
    return '\n'.join(lines)


def _hooks(hooks: Any) -> str:
    lines = [
        '| model | hook | method | step | own | difference |',
        '| --- | --- | --- | --: | --: | --: |',
    ]
    for model, rows in hooks.items():
        for hook, row in rows.items():
            times = row['times']
            stock = times['without']
            own, more = (
                [100 * a / b for a, b in zip(part, stock, strict=True)]
                for part in (times['own'], times['with'])
            )
            more = [value - 100 for value in more]
            lines.append(
                f'| {model} | `{hook}` | `{row["method"]}` '
                f'| {statistics.median(stock):.3f} s '
                f'| {statistics.median(own):.2f} % '
                f'| {statistics.median(more):+.1f} % '
                f'({min(more):+.1f} to {max(more):+.1f}) |'
            )
    return '\n'.join(lines)
