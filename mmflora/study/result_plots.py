"""The plots of a report: what a metric costs, and the seeds one by one."""

import io
import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .study_file import MEAN, Task
from .study_results import StudyResults, spread

Point = tuple[float, float]


def pareto_front(
    points: dict[str, Point], higher_is_better: bool
) -> list[str]:
    """Return the names of the points that no other beats.

    Args:
        points: By name, the cost and the metric.
        higher_is_better: Whether a higher metric is better.

    Returns:
        By rising cost: each has a better metric than all that cost less.
    """
    sign = 1 if higher_is_better else -1
    order = sorted(points, key=lambda n: (points[n][0], -sign * points[n][1]))
    front: list[str] = []
    for name in order:
        value = sign * points[name][1]
        if not front or value > sign * points[front[-1]][1]:
            front.append(name)
    return front


def draw_pareto(results: StudyResults, task: Task) -> Figure:
    """Draw a task's metric against parameters, memory and time of a step."""
    lines = results.lines()
    on_gpu = all(line.get('peak_cuda') for line in lines)
    memory = 'peak_cuda' if on_gpu else 'peak_rss'
    costs: dict[str, Callable[[dict[str, Any]], float]] = {
        'parameters in the backbone': lambda x: x['parameters']['method'],
        'peak memory, GB': lambda x: x[memory] / 1e9,
        'seconds per step': lambda x: x['seconds_per_step'] or math.nan,
    }
    metrics = results.metric(task)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 4.2), layout='constrained')
        for axes, (label, cost) in zip(
            figure.subplots(1, 3, sharey=True), costs.items(), strict=True
        ):
            values = results.by_seed(task, cost)
            points = {
                name: (statistics.median(values[name].values()), spread(m)[0])
                for name, m in metrics.items()
                if m
            }
            _scale(axes, [x for x, _ in points.values()])
            _draw_points(axes, points, metrics, task.higher_is_better)
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel(f'{task.name}: {task.metric}')
        _name_points(figure, metrics)
    return figure


def _scale(axes: Axes, costs: list[float]) -> None:
    """Choose a logarithmic axis for costs of several magnitudes."""
    least = min((cost for cost in costs if cost > 0), default=1.0)
    if max(costs, default=0) > 20 * least:
        # Linear below the least: a frozen base has no parameters at all.
        axes.set_xscale('symlog', linthresh=least)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _draw_points(
    axes: Axes, points: dict[str, Point], metrics: Any, higher: bool
) -> None:
    front = pareto_front(points, higher)
    axes.plot(
        [points[name][0] for name in front],
        [points[name][1] for name in front],
        color='0.6',
        drawstyle='steps-post',
        zorder=1,
    )
    numbers, colors = _numbers_and_colors(metrics)
    for name, (x, y) in points.items():
        deviation = spread(metrics[name])[1]
        axes.errorbar(
            x,
            y,
            yerr=None if math.isnan(deviation) else deviation,
            fmt='o',
            color=colors[name],
            markersize=11,
            markeredgecolor='black' if name in front else 'none',
            capsize=2,
            zorder=2,
        )
        axes.annotate(
            numbers[name],
            (x, y),
            ha='center',
            va='center',
            fontsize=7,
            color='black' if sum(colors[name][:3]) > 1.6 else 'white',
            fontweight='bold',
        )
    axes.margins(x=0.08, y=0.08)


def _numbers_and_colors(
    methods: Iterable[str],
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what stands for each method: a number, and a color."""
    names = [*methods]
    cycle = matplotlib.colormaps['tab10' if len(names) <= 10 else 'tab20']
    return (
        {name: str(number) for number, name in enumerate(names, 1)},
        {name: cycle(i % cycle.N) for i, name in enumerate(names)},
    )


def _name_points(figure: Figure, methods: Iterable[str]) -> None:
    """List the methods beside the panels, by their numbers."""
    numbers, colors = _numbers_and_colors(methods)
    handles = [
        Line2D(
            *([], []),
            linestyle='',
            marker='o',
            color=colors[name],
            label=f'{number}  {name}',
        )
        for name, number in numbers.items()
    ]
    title = 'Black edge: no cheaper\nmethod is better'
    figure.legend(handles=handles, loc='outside right center', title=title)


def draw_seeds(results: StudyResults) -> Figure:
    """Draw every seed of every method, a panel for each task."""
    columns = results.columns()
    methods = [*results.study.methods]
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(1.5 + 3.4 * len(columns), 1.2 + 0.32 * len(methods)),
            layout='constrained',
        )
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)
        for axes, (name, (values, _)) in zip(
            panels[0], columns.items(), strict=True
        ):
            for row, method in enumerate(methods):
                numbers = [*values[method].values()]
                axes.plot(
                    numbers, [row] * len(numbers), 'o', alpha=0.55, color='C0'
                )
                if numbers:
                    axes.plot(
                        [statistics.fmean(numbers)],
                        [row],
                        marker='|',
                        markersize=14,
                        color='black',
                    )
            task = results.study.tasks.get(name) if name != MEAN else None
            axes.set_title(f'{name}: {task.metric}' if task else name)
            axes.set_yticks(range(len(methods)), methods)
            axes.set_ylim(len(methods) - 0.5, -0.5)
    return figure


STYLE: Any = {
    'font.size': 9,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'axes.spines.top': False,
    'axes.spines.right': False,
    # The same study gives the same file.
    'svg.hashsalt': 'mmflora',
}


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, its text as outlines."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format='svg', metadata={'Date': None})
    return file.getvalue()
