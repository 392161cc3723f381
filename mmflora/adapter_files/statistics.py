"""Statistics of updates: of adapters' files, of runs, and as a picture."""

import csv
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from mmengine.config import Config

from mmflora.adapters import adapted_layers
from mmflora.adapters.update_statistics import (
    UpdateStatistics,
    update_statistics,
)
from mmflora.engine.hooks.update_statistics_hook import COLUMNS, FILE_NAME
from mmflora.files.atomic import write_figure

from .adapter import AdapterFile
from .apply import build_and_check


class Record(NamedTuple):
    """The statistics of one layer at one iteration.

    Attributes:
        iteration: Of the training; 0 for a file, where it is not known.
        layer: The layer's name.
        statistics: Its statistics.
    """

    iteration: int
    layer: str
    statistics: UpdateStatistics


def statistics_of(
    adapter: AdapterFile, config: str | Config, intruders: int = 0
) -> list[Record]:
    """Return the statistics of an adapter over its base.

    Args:
        adapter: The adapter.
        config: The config that it was trained with, which builds the base.
        intruders: See :func:`mmflora.adapters.update_statistics.\
update_statistics`.

    Raises:
        FileNotFoundError: If the config or the base is missing.
        ValueError: If the adapter does not fit the config, or updates no
            weight.
    """
    model = build_and_check(config, adapter)
    records = [
        Record(0, name, update_statistics(layer, intruders=intruders))
        for name, layer in adapted_layers(model).items()
    ]
    if not records:
        raise ValueError(
            f"'{adapter.path}' updates no weight of its base: it trains the "
            "base's own parameters, or blocks beside it. There is no ΔW."
        )
    return records


def recorded_statistics(place: str | Path) -> list[Record]:
    """Read what :class:`mmflora.UpdateStatisticsHook` recorded.

    A run that was resumed has a file for each start; a later one replaces
    what an earlier one says of the iterations after it.

    Args:
        place: A ``.csv`` file, or the work directory of a run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file holds something else.
    """
    place = Path(place)
    files = [place]
    if place.is_file() and place.suffix != '.csv':
        raise ValueError(
            f"'{place}' is no {FILE_NAME}. The statistics of an adapter need "
            'its base: give the config that it was trained with (--config).'
        )
    if not place.is_file():
        files = sorted(place.rglob(FILE_NAME), key=lambda f: f.parent.name)
    if not files:
        raise FileNotFoundError(
            f"No '{FILE_NAME}' is at or below '{place}'. Train with "
            "custom_hooks=[dict(type='mmflora.UpdateStatisticsHook')]."
        )
    records: dict[tuple[int, str], Record] = {}
    last = 0
    for row in (row for file in files for row in _read(file)):
        if row.iteration < last:
            records = {
                key: old
                for key, old in records.items()
                if old.iteration < row.iteration
            }
        last = row.iteration
        records[row.iteration, row.layer] = row
    if not records:
        raise ValueError(f"'{files[-1]}' has no rows: the run has just begun.")
    return list(records.values())


def _read(file: Path) -> list[Record]:
    lines = file.read_text(errors='replace').splitlines(keepends=True)
    if lines and not lines[-1].endswith('\n'):
        lines.pop()  # a run that was killed while it wrote
    header, *rows = csv.reader(lines) if lines else [list(COLUMNS)]
    try:
        if tuple(header) != COLUMNS:
            raise ValueError(f'its columns are {header}')
        return [_record(row) for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"'{file}' is no record of mmflora.UpdateStatisticsHook: {error}."
        ) from error


def _record(row: list[str]) -> Record:
    iteration, layer, norm, relative, amplification, rank, intruders = row
    statistics = UpdateStatistics(
        float(norm),
        float(relative),
        float(amplification),
        int(rank),
        int(intruders) if intruders else None,
    )
    return Record(int(iteration), layer, statistics)


def statistics_table(records: Iterable[Record]) -> str:
    """Return the statistics of layers as a table in plain text."""
    rows = list(records)
    width = max(len(row.layer) for row in rows)
    lines = [
        f'{"layer":{width}}  |ΔW|      |ΔW|/|W|  amplification  rank'
        '  intruders'
    ]
    for row in rows:
        of = row.statistics
        count = '' if of.intruders is None else of.intruders
        lines.append(
            f'{row.layer:{width}}  {of.norm:<8.3g}  {of.relative:<8.3g}  '
            f'{of.amplification:<13.3g}  {of.rank:<4}  {count}'.rstrip()
        )
    return '\n'.join(lines)


def last_records(records: Iterable[Record]) -> list[Record]:
    """Return the records of the last iteration."""
    rows = list(records)
    last = max(row.iteration for row in rows)
    return [row for row in rows if row.iteration == last]


def draw_statistics(records: Iterable[Record], out_file: str | Path) -> None:
    """Draw norm and amplification over the layers, and over the training.

    Args:
        records: Of one or of several iterations; the layers are drawn as they
            are at the last one.
        out_file: The picture to write.
    """
    rows = list(records)
    over_time = len({row.iteration for row in rows}) > 1
    layers = last_records(rows)
    shown = ['norm', 'amplification']
    if layers[0].statistics.intruders is not None:
        shown.append('intruders')
    columns = 1 + over_time
    size = (6.0 * columns, 2.4 * len(shown) + 0.6)
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=size, layout='constrained')
        axes = figure.subplots(
            len(shown), columns, squeeze=False, sharex='col'
        )
        for (*first, last), name in zip(axes, shown, strict=True):
            if over_time:
                _draw_training(first[0], rows, name)
            values = [getattr(row.statistics, name) for row in layers]
            last.plot(range(len(values)), values, '.-', lw=1)
            for axis in (*first, last):
                axis.set_ylabel(_LABELS[name])
                axis.set_ylim(bottom=0)
                axis.spines[['top', 'right']].set_visible(False)
        axes[-1][-1].set_xlabel(
            'layer, from the input on'
            + f', at iteration {layers[0].iteration}' * over_time
        )
        if over_time:
            axes[-1][0].set_xlabel('iteration')
        write_figure(out_file, figure, dpi=150)


_LABELS = {
    'norm': '‖ΔW‖',
    'amplification': 'amplification factor',
    'intruders': 'intruder dimensions',
}


def _draw_training(axis: Any, rows: list[Record], name: str) -> None:
    """Draw the mean over all layers, and the range of the middle half."""
    times, means, lower, upper = [], [], [], []
    by_time = sorted(rows, key=lambda row: row.iteration)
    for time, group in groupby(by_time, key=lambda row: row.iteration):
        values = sorted(getattr(row.statistics, name) for row in group)
        times.append(time)
        means.append(sum(values) / len(values))
        lower.append(values[len(values) // 4])
        upper.append(values[(3 * len(values) - 1) // 4])
    axis.plot(times, means, lw=1.4, label='mean of all layers')
    axis.fill_between(times, lower, upper, alpha=0.2, label='middle half')
    axis.legend(frameon=False)
