"""How two adapters differ, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .adapter_file import AdapterFile
from .updates import principal_angles, tucker_updates

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
            mode, in degrees.
    """

    layer: str
    norms: tuple[float, float]
    difference: float
    cosine: float
    angles: tuple[float, ...]


def compare_adapters(
    first: AdapterFile, second: AdapterFile
) -> list[LayerDifference]:
    """Compare two FLoRA adapters of one architecture.

    Raises:
        ValueError: If they adapt different layers or weights, or are of
            another method.
    """
    ours, theirs = tucker_updates(first), tucker_updates(second)
    if ours.keys() != theirs.keys():
        apart = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"'{first.path}' and '{second.path}' adapt different layers: "
            f'{len(apart)} stand in one alone, such as {apart[:3]}. Compare '
            'adapters of the same targets.'
        )
    rows = []
    for layer, one in ours.items():
        two = theirs[layer]
        if one.shape != two.shape:
            raise ValueError(
                f"Layer '{layer}' has a weight of shape {one.shape} in "
                f"'{first.path}' and {two.shape} in '{second.path}'. "
                'Compare adapters of one architecture.'
            )
        norms = one.norm(), two.norm()
        inner = one.inner(two)
        squared = norms[0] ** 2 + norms[1] ** 2 - 2 * inner
        product = norms[0] * norms[1]
        rows.append(
            LayerDifference(
                layer,
                norms,
                max(squared, 0.0) ** 0.5,
                inner / product if product else 0.0,
                tuple(
                    float(principal_angles(a, b).mean())
                    for a, b in zip(one.factors, two.factors, strict=True)
                ),
            )
        )
    return rows


def difference_table(rows: Sequence[LayerDifference]) -> str:
    """Return the differences as a table in plain text."""
    width = max(len(row.layer) for row in rows)
    modes = max(len(row.angles) for row in rows)
    head = f'{"layer":{width}}  |ΔW1|     |ΔW2|     |ΔW1-ΔW2|  cosine'
    names = ''.join(f'  {name:>6}' for name in _MODES[:modes])
    lines = [f'{head}{names}   (angles in degrees)']
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
    """Draw norms above, cosines and angles below, one column a layer.

    Args:
        rows: What :func:`compare_adapters` returned.
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
        for mode, name in enumerate(_MODES):
            points = [
                (place, row.angles[mode])
                for place, row in zip(places, rows, strict=True)
                if mode < len(row.angles)
            ]
            if points:
                lower.plot(*zip(*points, strict=True), '.', label=name)
        lower.set_ylabel('mean principal angle (°)')
        lower.set_ylim(-3, 93)
        lower.legend(frameon=False, ncols=4)
        lower.set_xlabel('layer, from the input on')
        for axis in (upper, lower):
            axis.spines[['top', 'right']].set_visible(False)
        figure.savefig(str(out_file), dpi=150)
