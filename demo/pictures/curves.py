"""Training curves, from the scalars that MMEngine logs."""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

Series = list[tuple[float, float]]


def read_scalars(work_dir: str | Path) -> dict[str, Series]:
    """Read what MMEngine's local backend logged in a work directory.

    Args:
        work_dir: The directory of one run; of several starts in it the last
            counts.

    Returns:
        Name to ``(step, value)`` pairs; losses count iterations, metrics
        what the loop counts.

    Raises:
        FileNotFoundError: If nothing was logged there.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(
            f"No scalars were logged in '{work_dir}' (looked for "
            "'*/vis_data/scalars.json'). The visualizer needs the backend "
            "dict(type='LocalVisBackend')."
        )
    series: dict[str, Series] = {}
    for line in logs[-1].read_text().splitlines():
        entry = json.loads(line)
        step = float(entry.get('step', 0))
        for name, value in entry.items():
            if name != 'step' and isinstance(value, (int, float)):
                series.setdefault(name, []).append((step, float(value)))
    return series


def draw_curves(
    runs: Mapping[str, Mapping[str, Series]],
    panels: Mapping[str, str],
    out_file: str | Path,
) -> None:
    """Draw the curves of several runs side by side.

    Args:
        runs: Label of each run to its series, see :func:`read_scalars`.
        panels: Name of each series to draw to the title of its panel.
        out_file: The picture to write.
    """
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=(5 * len(panels), 3.4), layout='constrained')
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (name, title) in zip(axes, panels.items(), strict=True):
            for index, (label, series) in enumerate(runs.items()):
                points = series.get(name, [])
                axis.plot(
                    [step for step, _ in points],
                    [value for _, value in points],
                    color=f'C{index}',
                    marker='o' if len(points) < 25 else None,
                    label=label,
                )
            axis.set_title(title)
            axis.grid(alpha=0.3)
            axis.spines[['top', 'right']].set_visible(False)
        axes[0].legend(frameon=False)
        figure.savefig(out_file, dpi=140)
