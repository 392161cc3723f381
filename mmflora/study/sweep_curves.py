"""Sweeps: a metric by rank, scale or another setting of a method."""

import math
from collections.abc import Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .paired_tests import best_mean, compare, corrected
from .report_tables import Cell, Table
from .result_plots import STYLE
from .result_tables import interval_cell, number_cell, spread_cell
from .study_file import Study, Task
from .study_results import StudyResults, Values, spread

Curves = Mapping[str, Mapping[float, str]]
"""By curve and setting, the method."""


def sweeps(study: Study) -> dict[str, Curves]:
    """Return the curves of a study by the setting that they are over.

    A curve has two points at least, in the order of the setting.
    """
    found: dict[str, dict[str, dict[float, str]]] = {}
    for name, method in study.methods.items():
        for setting, value in method.at.items():
            curve = found.setdefault(setting, {}).setdefault(method.curve, {})
            curve[value] = name
    return {
        setting: {
            name: dict(sorted(curve.items()))
            for name, curve in curves.items()
            if len(curve) > 1
        }
        for setting, curves in found.items()
        if any(len(curve) > 1 for curve in curves.values())
    }


def draw_sweep(results: StudyResults, task: Task, setting: str) -> Figure:
    """Draw a task's metric by a setting, a curve for each kind of method.

    Bars are standard deviations, pale points the seeds.  Lines across are the
    baselines that are on none of these curves; if the study names none, the
    methods that are on no curve at all.
    """
    every, metrics = sweeps(results.study), results.metric(task)
    curves, baselines = every[setting], results.study.baselines
    drawn = [curves] if baselines else every.values()
    on_curves = {
        name
        for curves_of in drawn
        for curve in curves_of.values()
        for name in curve.values()
    }
    across = [
        name
        for name in baselines or results.study.methods
        if name not in on_curves and metrics[name]
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.5), layout='constrained')
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            _draw_curve(axes, curve, metrics, name, f'C{number}')
        for number, name in enumerate(across):
            mean, deviation = spread(metrics[name])
            shade = str(0.35 + 0.5 * number / len(across))
            axes.axhline(mean, color=shade, linestyle='--', label=name)
            if deviation > 0:
                ends = mean - deviation, mean + deviation
                axes.axhspan(*ends, color=shade, alpha=0.12, linewidth=0)
        settings = {value for curve in curves.values() for value in curve}
        _scale_of_settings(axes, settings)
        axes.set_xlabel(setting)
        axes.set_ylabel(f'{task.name}: {task.metric}')
        figure.legend(loc='outside right center')
    return figure


def _draw_curve(
    axes: Axes,
    curve: Mapping[float, str],
    metrics: Values,
    label: str,
    color: str,
) -> None:
    there = {x: metrics[name] for x, name in curve.items() if metrics[name]}
    if not there:
        return
    for x, seeds in there.items():
        points = [*seeds.values()]
        axes.plot([x] * len(points), points, '.', color=color, alpha=0.35)
    spreads = [spread(seeds) for seeds in there.values()]
    axes.errorbar(
        [*there],
        [mean for mean, _ in spreads],
        # A single seed has none.
        yerr=[0 if math.isnan(x) else x for _, x in spreads],
        marker='o',
        color=color,
        capsize=3,
        label=label,
    )


def _scale_of_settings(axes: Axes, settings: set[float]) -> None:
    """Choose an axis with a mark for each setting."""
    least, most = min(settings), max(settings)
    if least > 0 and most >= 8 * least:
        axes.set_xscale('log', base=2)
    ticks = sorted(settings)
    axes.set_xticks(ticks, [f'{x:g}' for x in ticks])
    axes.minorticks_off()


def sweep_table(results: StudyResults, setting: str) -> Table:
    """Return how far each setting is from the best one of its curve."""
    rows, curves = [], sweeps(results.study)[setting]
    for task in results.tasks:
        metrics = results.metric(task)
        for name, curve in curves.items():
            rows += _curve_rows(results, task, name, curve, metrics)
    note = (
        f'Each {setting} beside the one with the best mean of its curve, '
        "paired by seed; p values of the t-test, with Holm's correction over "
        'the curve. The best is chosen by the same runs, which favors it.'
    )
    header = (
        *('task', 'curve', setting, 'metric', 'from the best'),
        *('95 % interval', 't-test', 't, Holm'),
    )
    return Table(f'by_{setting}', f'Metric by {setting}', header, rows, note)


def _curve_rows(
    results: StudyResults,
    task: Task,
    label: str,
    curve: Mapping[float, str],
    metrics: Values,
) -> list[list[Cell]]:
    there = [name for name in curve.values() if metrics[name]]
    best = best_mean(metrics, there, task.higher_is_better)
    if best is None:
        return []
    others = [name for name in there if name != best]
    family = [compare(task.name, name, best, metrics) for name in others]
    beside = dict(zip(others, corrected(family), strict=True))
    rows = []
    for value, name in curve.items():
        cell = spread_cell(metrics[name], len(results.study.seeds))
        row = [Cell(task.name), Cell(label), Cell(f'{value:g}', value)]
        row.append(Cell(cell.text, cell.value, name == best))
        one = beside.get(name)
        row += (
            [Cell('–', math.inf)] * 4
            if one is None
            else [
                number_cell(one.difference, '+.2f'),
                interval_cell(one),
                number_cell(one.t, '.3g'),
                number_cell(one.t_holm, '.3g'),
            ]
        )
        rows.append(row)
    return rows
