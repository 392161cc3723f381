"""The forecast as a picture: a stacked bar per option, lines for GPUs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .cards import GIB, Card, needed
from .estimate import Estimate

# Colours that are told apart without seeing colour well (Okabe and Ito).
_COLOURS = {
    'frozen weights': '#999999',
    'trained weights': '#56B4E9',
    'gradients': '#009E73',
    'optimizer state': '#E69F00',
    'activations and temporaries': '#0072B2',
    'allowances': '#F0E442',
}


def parts_of(estimate: Estimate) -> dict[str, int]:
    """Split what a GPU needs for a step into the parts of a bar, in bytes."""
    frozen = sum(
        size for (part, _), size in estimate.weights.items() if part == 'base'
    )
    step = estimate.step
    gradients = step.at_peak.get('gradients', 0)
    state = step.at_peak.get('optimizer state', 0)
    return {
        'frozen weights': frozen,
        'trained weights': estimate.fixed - frozen,
        'gradients': gradients,
        'optimizer state': state,
        'activations and temporaries': step.peak - gradients - state,
        'allowances': needed(estimate) - estimate.peak,
    }


def plot(
    estimates: Mapping[str, Estimate],
    cards: Sequence[Card],
    title: str,
    path: str | Path,
) -> None:
    """Draw a bar per option and a line per GPU.

    Args:
        estimates: By the option's name.
        cards: The GPUs.
        title: Above the picture.
        path: A file to write, of a type that Matplotlib knows by its suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.8 + 0.45 * len(estimates)
    figure = Figure(figsize=(9, height), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(estimates)
    left = [0.0] * len(names)
    for part, colour in _COLOURS.items():
        sizes = [parts_of(estimates[name])[part] / GIB for name in names]
        axes.barh(names, sizes, left=left, color=colour, label=part)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    for end, name in zip(left, names, strict=True):
        axes.annotate(
            f'{end:.1f}',
            (end, name),
            xytext=(3, 0),
            textcoords='offset points',
            va='center',
            fontsize='small',
            bbox=dict(facecolor='white', edgecolor='none', pad=0.5),
        )
    for card in cards:
        axes.axvline(card.memory / GIB, color='black', linestyle='--')
        axes.annotate(
            card.name,
            (card.memory / GIB, 1.01),
            xycoords=('data', 'axes fraction'),
            ha='center',
            fontsize='small',
        )
    axes.invert_yaxis()
    axes.set_xlabel('GB (2^30 bytes)')
    axes.set_title(title, pad=18, fontsize='medium')
    axes.margins(x=0.08)
    figure.legend(loc='outside lower center', ncols=3, fontsize='small')
    figure.savefig(path, dpi=150)
