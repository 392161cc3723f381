"""The table of parameter counts of several configs, in Markdown."""

import csv
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmflora.config.command_line import parse_count

from .parameters import ParameterCount

COLUMNS = (
    'config',
    'total',
    'trained',
    '% of total',
    'backbone: method',
    '% of base',
    'backbone: new',
    'neck',
    'heads',
    'file, MB',
    'full file, MB',
)
LEGEND = """\
*backbone: method* is what the method itself trains in the backbone: adapters,
or some of the base's own parameters; the per cent beside it refer to the
pre-trained base. *backbone: new* are parameters that no base holds, the norms
of the outputs. *file* is the weights in a checkpoint of a run (without the
optimizer's state), *full file* those of the whole model; 1 MB is 10^6 bytes.
"""


def count_row(name: str, count: ParameterCount) -> list[str]:
    """Return the cells of one config, as :data:`COLUMNS` names them."""
    return [
        name,
        f'{count.total:,}',
        f'{count.trainable:,}',
        f'{_percent(count.trainable, count.total):.2f}',
        f'{count.method:,}',
        f'{_percent(count.method, count.base):.2f}',
        f'{count.new:,}',
        f'{count.neck:,}',
        f'{count.heads:,}',
        f'{count.file_bytes / 1e6:.1f}',
        f'{count.full_bytes / 1e6:.1f}',
    ]


def count_table(
    counts: Mapping[str, ParameterCount],
    beside: Mapping[str, str] | None = None,
) -> str:
    """Return a Markdown table, one row for each config.

    Args:
        counts: The counts by the config's name.
        beside: Published figures by a pattern of config names, as
            :func:`read_beside` reads them; they and their distance from
            ours become the last two columns.
    """
    header = list(COLUMNS)
    if beside is not None:
        header += ['published', 'ours, off by %']
    rows = []
    for name, count in counts.items():
        row = count_row(name, count)
        if beside is not None:
            row += _beside(name, count, beside)
        rows.append(row)
    return markdown(header, rows)


def read_beside(path: str) -> dict[str, str]:
    """Read published figures from a CSV file.

    Args:
        path: A file with the columns ``config``, a name or a pattern such as
            ``*_lora-r8_*``, and ``trained``, the parameters that the method
            trains in the backbone: their number, such as ``12.94M``, or
            their share of the pre-trained base, such as ``0.32%``; it may be
            empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or a figure is no number.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--beside: there is no file '{path}'.")
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        if not {'config', 'trained'} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"--beside: '{path}' has the columns "
                f'{", ".join(reader.fieldnames or ())}; it needs config and '
                'trained.'
            )
        figures = {row['config']: row['trained'] or '' for row in reader}
    for name, figure in figures.items():
        if figure:
            _published(figure, 1, f"--beside: '{path}', row '{name}'")
    return figures


def _beside(
    name: str, count: ParameterCount, figures: Mapping[str, str]
) -> list[str]:
    for pattern, figure in figures.items():
        if figure and fnmatch.fnmatchcase(name, pattern):
            published = _published(figure, count.base, pattern)
            off = 100 * (count.method / published - 1)
            return [figure, f'{off:+.2f}']
    return ['–', '–']


def _published(figure: str, base: int, what: str) -> float:
    """Return a published number of parameters, or a share of the base."""
    if figure.endswith('%'):
        return parse_count(figure.removesuffix('%'), what) / 100 * base
    return parse_count(figure, what)


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table: the first column to the left, the others to the right."""
    columns = zip(header, *rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    rule = [
        '-' * width if index == 0 else '-' * (width - 1) + ':'
        for index, width in enumerate(widths)
    ]
    lines = []
    for row in (header, rule, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)
