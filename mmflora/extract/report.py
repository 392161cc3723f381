"""What an extraction explains, as a table and a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from mmflora.files.atomic import write_figure

from .full_tuning import LayerEnergy


def energy_table(rows: Sequence[LayerEnergy]) -> str:
    """Return the explained energies, a line each and one for all.

    The last line weights layers by ‖ΔW‖².
    """
    width = max(len(row.layer) for row in rows)
    lines = [
        f'{"layer":{width}}  {"ranks":18}  |ΔW|      HOSVD   FLoRA   LoRA'
    ]
    for row in rows:
        lines.append(
            f'{row.layer:{width}}  {row.ranks!s:18}  {row.norm:<8.3g}'
            f'  {row.hosvd:6.1%}  {row.flora:6.1%}  {row.lora:6.1%}'
        )
    total = sum(row.norm**2 for row in rows) or 1.0
    means = [
        sum(getattr(row, name) * row.norm**2 for row in rows) / total
        for name in ('hosvd', 'flora', 'lora')
    ]
    parameters = sum(row.parameters for row in rows)
    cells = '  '.join(f'{mean:6.1%}' for mean in means)
    label = f'all, {parameters:,} parameters'
    lines.append(f'{label:{width + 30}}  {cells}')
    lines.append('LoRA: by SVD, with as many parameters in each layer.')
    return '\n'.join(lines)


def draw_spectra(rows: Sequence[LayerEnergy], out_file: str | Path) -> None:
    """Draw the spectra of updates and cores, and what is explained.

    Args:
        rows: One for each layer; those that did not change are left out.
        out_file: The picture to write.
    """
    moved = [row for row in rows if row.norm > 0]
    colors = matplotlib.colormaps['viridis']
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=(11, 3.4), layout='constrained')
        update, core, energy = figure.subplots(1, 3)
        for index, row in enumerate(moved):
            color = colors(index / max(1, len(moved) - 1))
            for axis, values in (
                (update, row.spectrum),
                (core, row.core_spectrum),
            ):
                places = range(1, len(values) + 1)
                relative = (values / row.norm).clamp(min=1e-8)
                axis.plot(places, relative.tolist(), color=color, lw=0.8)
        update.set_title('singular values of ΔW, output channels', loc='left')
        core.set_title("those of the adapter's core", loc='left')
        for axis in (update, core):
            axis.set(xscale='log', yscale='log', xlabel='index')
            axis.set_ylabel('part of ‖ΔW‖')
        for name, label in (('flora', 'FLoRA'), ('lora', 'LoRA (SVD)')):
            parts = [100 * getattr(row, name) for row in moved]
            energy.plot(parts, '.', label=label)
        energy.set(xlabel='layer, from the input on', ylim=(-2, 102))
        energy.set_title('explained of ‖ΔW‖², in %', loc='left')
        energy.legend(frameon=False)
        for axis in (update, core, energy):
            axis.spines[['top', 'right']].set_visible(False)
        write_figure(out_file, figure, dpi=150)
