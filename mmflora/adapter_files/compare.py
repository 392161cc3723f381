"""How two adapters differ, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mmflora.adapters.updates import Update
from mmflora.files.atomic import write_figure

from .adapter import AdapterFile
from .stored_updates import stored_updates

_MODES = ('out', 'in', 'height', 'width')


@dataclass
class LayerDifference:
    """How the updates of one layer differ.

    Attributes:
        layer: The layer's name.
        norms: ‖ΔW‖ in the first and the second file.
        difference: ‖ΔW1 − ΔW2‖.
        cosine: ⟨ΔW1, ΔW2⟩ / (‖ΔW1‖ ‖ΔW2‖); 0 where one is zero.
        angles: The mean principal angle of the factors' spaces for each
            mode, in degrees: output, input, and the kernel's; of a product of
            two factors output, and all else. None where updates are compared
            as a whole.
    """

    layer: str
    norms: tuple[float, float]
    difference: float
    cosine: float
    angles: tuple[float, ...]


def compare_adapters(
    first: AdapterFile, second: AdapterFile
) -> list[LayerDifference]:
    """Compare two adapters of one architecture by their files alone.

    They may be of two methods; a Tucker update and a product of two factors
    are compared as matrices, output channels by all else.

    Raises:
        ValueError: If they adapt different layers or weights, or a method's
            updates depend on the frozen weights.
    """
    ours, theirs = stored_updates(first), stored_updates(second)
    if ours.keys() != theirs.keys():
        apart = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"'{first.path}' and '{second.path}' adapt different layers: "
            f'{len(apart)} stand in one alone, such as {apart[:3]}. Compare '
            'adapters of the same targets.'
        )
    names = first.path, second.path
    return [
        layer_difference(layer, (ours[layer], theirs[layer]), names)
        for layer in ours
    ]


def layer_difference(
    layer: str, updates: tuple[Update, Update], names: tuple[str, str]
) -> LayerDifference:
    """Compare two updates of one layer.

    Args:
        layer: The layer's name.
        updates: The two updates.
        names: Where they are from, for the error.

    Raises:
        ValueError: If they are of weights of different shapes.
    """
    one, two = updates
    if len(one.shape) != len(two.shape):
        one, two = one.as_matrix(), two.as_matrix()
    if one.shape != two.shape:
        raise ValueError(
            f"'{layer}' has shape {one.shape} in '{names[0]}' and {two.shape} "
            f"in '{names[1]}'. Compare adapters of one architecture."
        )
    inner, norms = one.inner(two), (one.norm(), two.norm())
    squared = norms[0] ** 2 + norms[1] ** 2 - 2 * inner
    product = norms[0] * norms[1]
    return LayerDifference(
        layer,
        norms,
        max(squared, 0.0) ** 0.5,
        inner / product if product else 0.0,
        one.angles(two),
    )


def difference_table(rows: Sequence[LayerDifference]) -> str:
    """Return the differences as a table in plain text."""
    width = max(len(row.layer) for row in rows)
    modes = max(len(row.angles) for row in rows)
    head = f'{"layer":{width}}  |ΔW1|     |ΔW2|     |ΔW1-ΔW2|  cosine'
    names = ''.join(f'  {name:>6}' for name in _MODES[:modes])
    unit = '   (angles in degrees)' if modes else ''
    lines = [f'{head}{names}{unit}']
    for row in rows:
        angles = ''.join(f'  {angle:6.1f}' for angle in row.angles)
        lines.append(
            f'{row.layer:{width}}  {row.norms[0]:<8.3g}  {row.norms[1]:<8.3g}'
            f'  {row.difference:<9.3g}  {row.cosine:6.3f}{angles}'
        )
    return '\n'.join(lines)


def draw_differences(
    rows: Sequence[LayerDifference],
    labels: tuple[str, str],
    out_file: str | Path,
) -> None:
    """Draw norms above, angles or cosines below, one column a layer.

    Args:
        rows: What :func:`compare_adapters` or
            :func:`~mmflora.adapter_files.compare_models.compare_models`
            returned.
        labels: The names of the two adapters.
        out_file: The picture to write.
    """
    places = range(len(rows))
    size = (max(6.0, 0.09 * len(rows) + 3), 5.0)
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=size, layout='constrained')
        upper, lower = figure.subplots(2, 1, sharex=True)
        for index, label in enumerate(labels):
            norms = [row.norms[index] for row in rows]
            upper.plot(places, norms, '.-', lw=1, label=label)
        difference = [row.difference for row in rows]
        upper.plot(places, difference, 'k:', lw=1, label='difference')
        upper.set_ylabel('‖ΔW‖')
        upper.set_ylim(bottom=0)
        upper.legend(frameon=False)
        if any(row.angles for row in rows):
            _draw_angles(lower, rows)
        else:
            lower.plot(places, [row.cosine for row in rows], '.')
            lower.set_ylabel('cosine')
            lower.set_ylim(-1.05, 1.05)
        lower.set_xlabel('layer, from the input on')
        for axis in (upper, lower):
            axis.spines[['top', 'right']].set_visible(False)
        write_figure(out_file, figure, dpi=150)


def _draw_angles(axis: Any, rows: Sequence[LayerDifference]) -> None:
    for mode, name in enumerate(_MODES):
        points = [
            (place, row.angles[mode])
            for place, row in enumerate(rows)
            if mode < len(row.angles)
        ]
        if points:
            axis.plot(*zip(*points, strict=True), '.', label=name)
    axis.set_ylabel('mean principal angle (°)')
    axis.set_ylim(-3, 93)
    axis.legend(frameon=False, ncols=4)
