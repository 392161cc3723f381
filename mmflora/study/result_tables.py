"""The tables of a report: metrics, cost, comparisons, learning rates."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from .paired_tests import (
    Comparison,
    best_mean,
    best_references,
    compare,
    corrected,
)
from .report_tables import Cell, Table
from .study_file import MEAN
from .study_results import StudyResults, Values, spread


def count_cell(counts: Sequence[int]) -> Cell:
    """Return a number of parameters, or its range over tasks, in millions."""
    if not counts:
        return Cell('–', -1)
    ends = sorted(
        {f'{count / 1e6:.3f}' for count in (min(counts), max(counts))}
    )
    return Cell(' – '.join(ends) + ' M', statistics.fmean(counts))


def spread_cell(values: Mapping[int, float], seeds: int) -> Cell:
    """Return mean ± standard deviation, and how many seeds are missing."""
    mean, deviation = spread(values)
    if math.isnan(mean):
        return Cell('–', -math.inf)
    text = f'{mean:.2f}'
    if not math.isnan(deviation):
        text += f' ± {deviation:.2f}'
    if len(values) < seeds:
        text += f' ({len(values)} of {seeds})'
    return Cell(text, mean)


def metric_table(results: StudyResults) -> Table:
    """Return methods, parameters and metrics by task (the paper's table 1)."""
    study, columns = results.study, results.columns()
    header, best = ['method', 'parameters', 'all trained'], {}
    for name, (values, higher) in columns.items():
        task = study.tasks.get(name) if name != MEAN else None
        arrow = '↑' if higher else '↓'
        header.append(f'{name} ({task.metric} {arrow})' if task else name)
        best[name] = best_mean(values, values, higher)
    method = results.counts('method')
    trained = results.counts('method', 'new', 'neck', 'heads')
    rows = []
    for name in study.methods:
        row = [Cell(name), count_cell(method[name]), count_cell(trained[name])]
        for column, (values, _) in columns.items():
            cell = spread_cell(values[name], len(study.seeds))
            is_best = best[column] == name
            row.append(Cell(cell.text, cell.value, is_best))
        rows.append(row)
    note = (
        '*parameters*: what the method trains in the backbone; *all trained*: '
        'with neck and heads. Metrics on the test split, in per cent where '
        'they are fractions of a score: mean ± sample standard deviation over '
        f'{len(study.seeds)} seeds. Bold: the best mean of a column.'
    )
    return Table('metrics', 'Metrics', header, rows, note)


def cost_table(results: StudyResults) -> Table:
    """Return time and memory of a step (the paper's table 5)."""
    study, on_gpu = results.study, _on_gpu(results)
    memory = 'peak_cuda' if on_gpu else 'peak_rss'
    header = ['method', 'parameters']
    for known in study.tasks:
        header += [f'{known}: s/step', f'{known}: memory, GB']
    counts = results.counts('method')
    rows = []
    for name in study.methods:
        row = [Cell(name), count_cell(counts[name])]
        for task in results.tasks:
            cell = results.cells.get((task.name, name), {})
            for key, scale in (('seconds_per_step', 1), (memory, 1e9)):
                numbers = [
                    line[key] / scale
                    for line in cell.values()
                    if line.get(key)
                ]
                middle = statistics.median(numbers) if numbers else math.nan
                text = f'{middle:.3f}' if numbers else '–'
                row.append(Cell(text, middle if numbers else math.inf))
        rows.append(row)
    where = 'on the GPU' if on_gpu else 'of the process (resident)'
    machines = {
        f'{processors_of(line)}, {line["machine"]["threads"]} thread(s)'
        for line in results.lines()
    }
    note = (
        "Median over the seeds of a run's median step, loading included, and "
        f'of the peak of memory {where} while it trained; 1 GB is 10^9 bytes. '
        f'Measured on: {"; ".join(sorted(machines))}.'
    )
    return Table('cost', 'Time and memory', header, rows, note)


def processors_of(line: Mapping[str, Any]) -> str:
    """Return what a run was done with: processor, instructions, GPU."""
    machine = line['machine']
    known = ('processor', 'instructions', 'gpu')
    return ', '.join(str(machine[key]) for key in known if key in machine)


def _on_gpu(results: StudyResults) -> bool:
    return all(line.get('peak_cuda') for line in results.lines())


def comparisons(
    results: StudyResults, all_pairs: bool = False
) -> list[Comparison]:
    """Return each method beside the best other baseline, or every pair.

    Holm's correction is over the pairs of methods of a column: the best
    baseline beside the second best, and this one beside it, are one pair.
    """
    found = []
    for column, (values, higher) in results.columns().items():
        if all_pairs:
            there = [name for name, seeds in values.items() if seeds]
            pairs = [*combinations(there, 2)]
        else:
            baselines = results.study.baselines
            best = best_references(values, baselines, higher)
            pairs = [*best.items()]
        family = [compare(column, *pair, values) for pair in pairs]
        found += corrected(family)
    return found


def comparison_table(found: Sequence[Comparison], all_pairs: bool) -> Table:
    """Return comparisons as a table."""
    header = (
        *('task', 'method', 'beside', 'seeds', 'difference', '95 % interval'),
        *('d_z', 't-test', 'Wilcoxon', 't, Holm', 'Wilcoxon, Holm'),
    )
    rows = [
        [
            Cell(one.column),
            Cell(one.method),
            Cell(one.reference),
            Cell(str(one.pairs), one.pairs),
            number_cell(one.difference, '+.2f'),
            interval_cell(one),
            number_cell(one.effect, '+.2f'),
            *(
                number_cell(p, '.3g')
                for p in (one.t, one.wilcoxon, one.t_holm, one.wilcoxon_holm)
            ),
        ]
        for one in found
    ]
    beside = 'every other method' if all_pairs else 'the best other baseline'
    note = (
        f'Each method beside {beside}, paired by seed. *d_z*: mean difference '
        'over the standard deviation of the differences. p values are '
        'two-sided; *Holm*: corrected over the pairs of methods of a column, '
        'each counted once. With n seeds the smallest p value of Wilcoxon is '
        '2/2^n: 0.0625 for 5.'
    )
    return Table('comparisons', 'Paired comparisons', header, rows, note)


def interval_cell(one: Comparison) -> Cell:
    """Return the interval of a difference, to be sorted by its lower end."""
    if math.isnan(one.low):
        return Cell('–', math.inf)
    return Cell(f'{one.low:+.2f} … {one.high:+.2f}', one.low)


def number_cell(value: float, form: str) -> Cell:
    """Return a number that may be unknown (NaN)."""
    if math.isnan(value):
        return Cell('–', math.inf)
    if math.isinf(value):
        return Cell('∞' if value > 0 else '−∞', value)
    return Cell(format(value, form), value)


def lr_table(results: StudyResults) -> Table:
    """Return the learning rates, and how each did on the validation split."""
    study = results.study
    grids = {name: study.lrs_of(task) for name, task in study.tasks.items()}
    every = sorted({lr for lrs in grids.values() for lr in lrs})
    header = ['task', 'method', *(f'{lr:g}' for lr in every), 'chosen']
    rows = []
    for (task, method), scores in results.lrs.items():
        if study.tasks[task].trained_as:
            continue
        chosen = results.chosen.get((task, method))
        scale = results.scale(study.tasks[task])
        row = [Cell(task), Cell(method)]
        for lr in every:
            score = scores.get(lr)
            if score is None:
                text, value = '–', -math.inf
            else:
                value = scale * score
                text = f'{value:.2f}' if math.isfinite(value) else 'no number'
            row.append(Cell(text, value, lr == chosen and len(scores) > 1))
        text = '–' if chosen is None else f'{chosen:g}'
        lrs = grids[task]
        if chosen in (min(lrs), max(lrs)) and len(lrs) > 1:
            text += ' (end of the grid)'
        rows.append([*row, Cell(text, chosen or 0.0)])
    seeds = ', '.join(map(str, study.search_seeds))
    note = (
        'Metric on the validation split by learning rate, mean over the '
        f'seeds of the search ({seeds}). The best is taken for every seed. '
        'Where it is an end of the grid, the best one may lie outside.'
        if any(len(lrs) > 1 for lrs in grids.values())
        else 'One learning rate was given; nothing was searched.'
    )
    return Table('learning_rates', 'Learning rates', header, rows, note)


def run_table(results: StudyResults) -> Table:
    """Return every run of the report, with the command that repeats it."""
    header = ('task', 'method', 'seed', 'lr', 'metric', 's/step', 'command')
    rows = []
    for task in results.tasks:
        metric: Values = results.metric(task)
        for (name, method), cell in results.cells.items():
            for seed, line in cell.items():
                if name != task.name:
                    continue
                value, step = metric[method][seed], line['seconds_per_step']
                rows.append(
                    [
                        *(Cell(name), Cell(method), Cell(str(seed), seed)),
                        Cell(f'{line["lr"]:g}', line['lr']),
                        Cell(f'{value:.2f}', value),
                        Cell(
                            '–' if step is None else f'{step:.3f}', step or 0
                        ),
                        Cell(line['command']),
                    ]
                )
    return Table('runs', 'Runs', header, rows)
