"""A sheet of pictures: ground truth beside what several models predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


@dataclass
class Instances:
    """The objects of one picture.

    Attributes:
        boxes: Shape ``(n, 4)``, corners ``x1, y1, x2, y2`` in pixels.
        labels: Shape ``(n,)``, indices of classes.
        scores: Shape ``(n,)``, or ``None`` for ground truth.
        masks: Shape ``(n, H, W)``, boolean, or ``None``.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None


def draw_predictions(
    pictures: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[Instances]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    out_file: str | Path,
    min_score: float = 0.4,
) -> None:
    """Draw one row per picture and one column per model.

    Args:
        pictures: RGB pictures of shape ``(H, W, 3)``.
        columns: Title of each column to its objects, one entry a picture.
        classes: Names of the classes.
        palette: RGB colors of the classes, from 0 to 255.
        out_file: The picture to write.
        min_score: Predictions below it are left out.
    """
    rows = len(pictures)
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(
            figsize=(2.5 * len(columns), 2.5 * rows + 0.3),
            layout='constrained',
        )
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for column, (title, found) in enumerate(columns.items()):
            grid[0][column].set_title(title)
            for row, picture in enumerate(pictures):
                axis = grid[row][column]
                axis.imshow(picture)
                axis.set_axis_off()
                _draw_instances(axis, found[row], classes, palette, min_score)
        figure.savefig(out_file, dpi=120)


def _draw_instances(
    axis: matplotlib.axes.Axes,
    found: Instances,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    min_score: float,
) -> None:
    for index, (box, label) in enumerate(
        zip(found.boxes, found.labels, strict=True)
    ):
        score = None if found.scores is None else float(found.scores[index])
        if score is not None and score < min_score:
            continue
        color = np.asarray(palette[int(label)]) / 255
        if found.masks is not None:
            shade = np.zeros((*found.masks[index].shape, 4))
            shade[found.masks[index]] = (*color, 0.45)
            axis.imshow(shade)
        x1, y1, x2, y2 = box
        axis.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, color=color, lw=1.2
            )
        )
        name = classes[int(label)]
        axis.text(
            x1,
            y1 - 1,
            name if score is None else f'{name} {score:.2f}',
            color='white',
            fontsize=6,
            va='bottom',
            bbox=dict(facecolor=color, edgecolor='none', pad=0.6),
            clip_on=True,
        )
