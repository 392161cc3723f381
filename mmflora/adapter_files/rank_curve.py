"""The curve of what an adapter reaches at each of its lower ranks."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from mmengine.config import Config

from mmflora.files.atomic import write_figure

from .adapter import AdapterFile
from .reduce import reduce_ranks
from .reduced_report import config_of
from .write import write_adapter


def adapters_of_ranks(
    config: Config,
    adapter: AdapterFile,
    ranks: Sequence[int],
    folder: str | Path,
    prefix: bool,
) -> list[tuple[int, int, Config]]:
    """Write an adapter of each rank, and return the configs that test them.

    All are made before the first test, which takes longer: a rank that the
    adapter does not have is found at once.

    Args:
        config: The config of the adapter.
        adapter: The adapter.
        ranks: The ranks.
        folder: Where the adapters are written, and their tests log.
        prefix: See :func:`~mmflora.adapter_files.reduce.reduce_ranks`.

    Returns:
        Each rank, the number of parameters of all its adapters, and the
        config.

    Raises:
        ValueError: If the adapter has no such rank.
    """
    made = []
    for rank in ranks:
        lower, rows = reduce_ranks(adapter, prefix=prefix, rank=rank)
        own = config_of(config, lower)
        work_dir = Path(folder) / f'rank_{rank}'
        own.load_from = str(write_adapter(lower, work_dir / 'adapter'))
        own.work_dir = str(work_dir)
        own.experiment_name = f'rank_{rank}'
        if own.get('visualizer'):  # else MMEngine takes the first run's
            own.visualizer['name'] = f'rank_{rank}'
        made.append((rank, sum(row.parameters[1] for row in rows), own))
    return made


def area_under_curve(
    ranks: Sequence[int], scores: Sequence[float], log: bool = False
) -> float:
    """Return the area under the rank-accuracy curve, by trapezoids.

    Divided by the curve's width, so that it is a mean score (AURAC;
    Modoranu et al., "MatryoshkaLoRA", 2026, in the two forms of the authors'
    release).

    Args:
        ranks: Ascending.
        scores: One for each rank.
        log: Over the logarithm of the rank, where each doubling counts as
            much as another.
    """
    places = [math.log2(rank) if log else float(rank) for rank in ranks]
    if len(places) == 1:
        return scores[0]
    area = sum(
        (places[i + 1] - places[i]) * (scores[i] + scores[i + 1]) / 2
        for i in range(len(places) - 1)
    )
    return area / (places[-1] - places[0])


def curve_table(
    ranks: Sequence[int],
    parameters: Sequence[int],
    results: Sequence[Mapping[str, float]],
) -> str:
    """Return the curve as a table in plain text, a column for each metric."""
    names = list(results[0])
    widths = [max(len(name), 8) for name in names]
    head = '  '.join(f'{n:>{w}}' for n, w in zip(names, widths, strict=True))
    lines = [f'{"rank":>8}  {"parameters":>12}  {head}']
    columns = [[float(one[name]) for one in results] for name in names]

    def line(first: str, second: str, values: Sequence[float]) -> str:
        cells = '  '.join(
            f'{value:>{w}.4f}' for value, w in zip(values, widths, strict=True)
        )
        return f'{first:>8}  {second:>12}  {cells}'

    for rank, count, scores in zip(
        ranks, parameters, zip(*columns, strict=True), strict=True
    ):
        lines.append(line(str(rank), f'{count:,}', scores))
    for name, log in (('rank', False), ('log2 rank', True)):
        areas = [area_under_curve(ranks, scores, log) for scores in columns]
        lines.append(line('area', f'over {name}', areas))
    return '\n'.join(lines)


def draw_curve(
    ranks: Sequence[int],
    results: Sequence[Mapping[str, float]],
    metrics: Sequence[str],
    out_file: str | Path,
) -> None:
    """Draw metrics over the rank."""
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=(4.5, 3.2), layout='constrained')
        axis = figure.subplots()
        for name in metrics:
            scores = [float(one[name]) for one in results]
            area = area_under_curve(ranks, scores, log=True)
            axis.plot(ranks, scores, '.-', label=f'{name}, area {area:.3f}')
        axis.set_xscale('log', base=2)
        axis.set_xticks(list(ranks), [str(rank) for rank in ranks])
        axis.set_xlabel('rank')
        axis.legend(frameon=False)
        axis.spines[['top', 'right']].set_visible(False)
        write_figure(out_file, figure, dpi=150)
