"""The benchmark's results as a table, as targets met or missed, as a plot."""

import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Rows = dict[str, Row]

MIB = 2**20


def paired(rows: Rows, name: str, other: str) -> list[float] | None:
    """Return a contender's time over another's, round by round."""
    if name not in rows or other not in rows:
        return None
    pairs = zip(rows[name]['times'], rows[other]['times'], strict=True)
    return [own / others for own, others in pairs] or None


def time_ratio(rows: Rows, name: str, other: str) -> float | None:
    """Return the median of the ratios of all rounds."""
    ratios = paired(rows, name, other)
    return None if ratios is None else statistics.median(ratios)


def bytes_ratio(rows: Rows, name: str, other: str) -> float | None:
    """Return a contender's bytes after the forward pass over another's."""
    if name not in rows or other not in rows:
        return None
    return rows[name]['bytes_held'] / rows[other]['bytes_held']


def table(rows: Rows) -> str:
    """Return all measurements as a table."""
    head = (
        *('', 'layers', 'trainable', 'rank', 'step s', 'x frozen'),
        *('spread', 'held MiB', 'x frozen', 'peak MiB', 'GPU MiB'),
        *('output err', 'grad err'),
    )
    lines = [head]
    for name, row in rows.items():
        ratios = paired(rows, name, 'frozen') or []
        timed = bool(ratios)
        lines.append(
            (
                row['label'],
                str(row['layers']),
                f'{row["trainable"]:,}',
                _ranks(row['ranks']),
                f'{statistics.median(row["times"]):.4f}' if timed else '–',
                f'{statistics.median(ratios):.3f}' if timed else '–',
                f'{min(ratios):.2f}–{max(ratios):.2f}' if timed else '–',
                f'{row["bytes_held"] / MIB:.1f}',
                f'{bytes_ratio(rows, name, "frozen"):.3f}',
                f'{row["bytes_peak"] / MIB:.1f}',
                f'{row["device_peak"] / MIB:.0f}'
                if row['device_peak']
                else '–',
                f'{row["output_error"]:.1e}',
                f'{row["gradient_error"]:.1e}',
            )
        )
    return align(lines)


def _ranks(ranks: dict[str, int]) -> str:
    """Return the rank of linear layers, and of convolutions if it differs."""
    return '/'.join(
        str(rank)
        for rank in dict.fromkeys(
            ranks[kind] for kind in ('linear', 'conv') if kind in ranks
        )
    )


def notes(rows: Rows, failed: dict[str, str]) -> str:
    """Return what is to be said of single contenders, a line each."""
    lines = [
        f'{row["label"]}: {row["note"]}.'
        for row in rows.values()
        if row['note']
    ]
    lines += [f'{name}: left out, {why}' for name, why in failed.items()]
    return '\n'.join(lines)


def align(lines: list[tuple[str, ...]]) -> str:
    """Return lines of cells as columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        cells = [f'{first[0]:<{first[1]}}']
        cells += [f'{cell:>{width}}' for cell, width in others]
        text.append('  '.join(cells).rstrip())
    text.insert(1, '-' * max(map(len, text)))
    return '\n'.join(text)


_TIME, _BYTES = 'time', 'bytes'
# Who, against whom, in what, at most.  A bound of 1 has to be undercut.
TARGETS = (
    ('flora', 'frozen', _TIME, 1.25),
    ('flora', 'frozen', _BYTES, 1.10),
    ('flora-lean', 'flora', _TIME, 1.12),
    ('flora-lean', 'frozen', _BYTES, 0.60),
    ('flora-nodw', 'peft-lora', _TIME, 0.92),
    ('flora-nodw', 'peft-lora', _BYTES, 0.80),
    ('flora-nodw-lean', 'peft-lora', _BYTES, 0.80),
    ('flora-nodw', 'peft-dora', _TIME, 0.70),
    ('flora-nodw', 'peft-dora', _BYTES, 0.50),
    ('flora-nodw-lean', 'peft-dora', _BYTES, 0.50),
    ('flora', 'authors', _TIME, 0.55),
    ('flora', 'authors', _BYTES, 0.70),
    ('flora-lean', 'authors', _BYTES, 0.70),
    ('flora', 'locon', _TIME, 0.55),
    ('flora', 'locon', _BYTES, 1.0),
    ('flora-lean', 'locon', _BYTES, 1.0),
    ('flora', 'full', _TIME, 1.0),
    ('flora', 'full', _BYTES, 1.0),
    ('flora-lean', 'full', _BYTES, 1.0),
)


def targets(rows: Rows) -> str:
    """Return the target ratios against the measured ones."""
    lines = [('', 'against', 'in', 'target', 'measured', '')]
    for name, other, quantity, bound in TARGETS:
        ratio = time_ratio if quantity == _TIME else bytes_ratio
        measured = ratio(rows, name, other)
        if measured is None:
            verdict = 'not run'
        else:
            reached = measured < bound or (measured == bound and bound != 1)
            verdict = 'met' if reached else 'missed'
        lines.append(
            (
                rows[name]['label'] if name in rows else name,
                rows[other]['label'] if other in rows else other,
                quantity,
                f'{"<" if bound == 1 else "≤"} {bound:.2f}',
                '–' if measured is None else f'{measured:.3f}',
                verdict,
            )
        )
    return align(lines)


def plot(rows: Rows, title: str, path: Path) -> None:
    """Draw time against bytes, both relative to the frozen model.

    Args:
        rows: The results.
        title: What stands above.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = {}
    for name, row in rows.items():
        x, y = (
            time_ratio(rows, name, 'frozen'),
            bytes_ratio(rows, name, 'frozen'),
        )
        if x is not None and y is not None:
            points[row['label']] = (x, y, name.startswith('flora'))
    figure = Figure(figsize=(10, 7), dpi=130, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for own, marker, color in ((True, 'o', 'tab:blue'), (False, 's', '0.35')):
        some = [(x, y) for x, y, mine in points.values() if mine == own]
        if some:
            label = 'mmflora' if own else 'others'
            axes.scatter(
                *zip(*some, strict=True), 42, color, marker, label=label
            )
    axes.axvline(1, color='0.8', linewidth=1, zorder=0)
    axes.axhline(1, color='0.8', linewidth=1, zorder=0)
    axes.set_xlabel('time of a step, relative to the frozen model')
    axes.set_ylabel('bytes after the forward pass, relative')
    axes.set_title(title)
    axes.legend(loc='upper left')
    axes.margins(0.16, 0.10)
    canvas.draw()
    _label(axes, {label: (x, y) for label, (x, y, _) in points.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _label(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Put each label where it covers neither a point nor another label."""
    from matplotlib.text import Text

    renderer = axes.figure.canvas.get_renderer()
    taken = [axes.get_legend().get_window_extent(renderer)]
    for x, y in points.values():
        left, bottom = axes.transData.transform((x, y))
        taken.append(_box(left - 6, bottom - 6, 12, 12))
    offsets = [
        (dx, dy)
        for distance in (9, 16, 26, 38, 52, 68, 86, 106)
        for dx, dy in (
            *((distance, -4), (distance, distance), (distance, -distance)),
            *((0, distance), (0, -distance), (-distance, -4)),
            *((-distance, distance), (-distance, -distance)),
        )
    ]
    frame = axes.get_window_extent(renderer)
    for label, point in sorted(points.items(), key=lambda item: item[1]):
        for dx, dy in offsets:
            text = axes.annotate(
                label,
                point,
                xytext=(dx, dy),
                textcoords='offset points',
                ha='left' if dx > 0 else 'right' if dx < 0 else 'center',
                fontsize=9,
                arrowprops=dict(arrowstyle='-', color='0.6', linewidth=0.7),
            )
            # An annotation's own extent would include its line.
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)
            inside = frame.contains(*box.min) and frame.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                break
            if (dx, dy) != offsets[-1]:
                text.remove()
        taken.append(box)


def _box(left: float, bottom: float, width: float, height: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(left, bottom, width, height)
