"""The picture of a search: the ranks that it chose, and what it tested."""

import os
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmflora.files.atomic import write_figure

from .search_run import SearchResult
from .space import Architecture, Space

_CHOSEN, _WIDEST = '#1f6fb4', '#dfe6ec'
# More layers' names than this do not fit beside each other.
_NAMED = 36


def draw_search(
    space: Space,
    result: SearchResult,
    budget: int,
    out: str | os.PathLike[str],
) -> None:
    """Draw the ranks by layer, and the metric against parameters.

    Args:
        space: The architectures.
        result: What the search found.
        budget: The most parameters.
        out: The picture to write.
    """
    methods = list(dict.fromkeys(one.method for one in space.layers))
    with matplotlib.rc_context({'font.size': 9}):
        height = max(3.4, 1.9 * len(methods))
        figure = Figure(figsize=(12, height), layout='constrained')
        halves: Any = figure.subfigures(1, 2, width_ratios=[1.7, 1])
        left, right = halves
        axes = left.subplots(len(methods), squeeze=False)[:, 0]
        for axis, method in zip(axes, methods, strict=True):
            _draw_ranks(axis, space, result.best, method)
        _draw_tested(right.subplots(), space, result, budget)
        write_figure(out, figure, dpi=150)


def _draw_ranks(
    axis: Axes, space: Space, architecture: Architecture, method: str
) -> None:
    rows = zip(space.layers, space.costs, architecture, strict=True)
    own = [row for row in rows if row[0].method == method]
    # Ranks stand at equal steps, as 5 and 10 are lost beside 100.
    ranks = sorted({0, *(rank for one, *_ in own for rank in one.ranks)})
    places = range(len(own))
    widest = [ranks.index(one.ranks[-1]) for one, *_ in own]
    axis.bar(places, widest, color=_WIDEST)
    axis.bar(places, [ranks.index(rank) for *_, rank in own], color=_CHOSEN)
    ticks = range(0, len(ranks), 1 + len(ranks) // 12)
    axis.set_yticks(ticks, [str(ranks[place]) for place in ticks])
    axis.set_ylabel('rank or width')
    names, frame = _short_names([one.name for one, *_ in own])
    if len(own) <= _NAMED:
        axis.set_xticks(list(places), names, rotation=90 * (len(own) > 16))
    axis.set_xlabel(frame)
    axis.margins(x=0.01)
    total = sum(cost[rank] for _, cost, rank in own)
    axis.set_title(f'{method}: {total:,} parameters', loc='left')
    axis.spines[['top', 'right']].set_visible(False)


def _draw_tested(
    axis: Axes, space: Space, result: SearchResult, budget: int
) -> None:
    rows = [
        row
        for row in result.rows
        if row['metrics'].get(result.metric) is not None
    ]
    values: list[Any] = [row['metrics'][result.metric] for row in rows]
    points = axis.scatter(
        [row['parameters'] for row in rows],
        values,
        c=[row['generation'] for row in rows],
        s=18,
        cmap='viridis',
    )
    bar = axis.figure.colorbar(points, ax=axis, label='generation')
    bar.locator = MaxNLocator(integer=True)
    best = [row for row in rows if tuple(row['ranks']) == result.best]
    for row in best:
        axis.plot(
            row['parameters'],
            row['metrics'][result.metric],
            'o',
            ms=11,
            mfc='none',
            mec='#c8102e',
            label='chosen',
        )
    axis.axvline(budget, color='gray', lw=1, ls='--', label='budget')
    axis.set_xlabel('parameters of the adapters')
    axis.set_ylabel(result.metric)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    axis.set_title(f'{len(result.rows)} architectures', loc='left')
    axis.legend(frameon=False)
    axis.spines[['top', 'right']].set_visible(False)


def _short_names(names: list[str]) -> tuple[list[str], str]:
    """Return names without what all share, and that with a star for them."""
    paths = [name.split('.') for name in names]
    front: list[str] = []
    back: list[str] = []
    while len(paths) > 1 and all(len(path) > 1 for path in paths):
        if len({path[0] for path in paths}) == 1:
            front.append(paths[0][0])
            paths = [path[1:] for path in paths]
        elif len({path[-1] for path in paths}) == 1:
            back.insert(0, paths[0][-1])
            paths = [path[:-1] for path in paths]
        else:
            break
    return ['.'.join(path) for path in paths], '.'.join([*front, '*', *back])
