"""The forecast as a picture: a stacked bar per option, lines for GPUs."""

from pathlib import Path

from mmflora.files.atomic import write_figure

from .cards import GIB, needed
from .estimate import Estimate
from .reporting import Forecast
from .step import GRADIENTS, STATE

# Colors that are told apart without seeing color well (Okabe and Ito).
_COLORS = {
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
    gradients = step.at_peak.get(GRADIENTS, 0)
    state = step.at_peak.get(STATE, 0)
    sizes = (
        frozen,
        estimate.fixed - frozen,
        gradients,
        state,
        step.peak - gradients - state,
        needed(estimate) - estimate.peak,
    )
    return dict(zip(_COLORS, sizes, strict=True))


def plot(forecast: Forecast, path: str | Path) -> None:
    """Draw a bar per option and a line per GPU.

    Args:
        forecast: What is predicted.
        path: A file to write, of a type that Matplotlib knows by its suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = {name: parts_of(pair[0]) for name, pair in forecast.pairs.items()}
    figure = Figure(figsize=(9, 1.8 + 0.45 * len(bars)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = [0.0] * len(bars)
    for part, color in _COLORS.items():
        sizes = [parts[part] / GIB for parts in bars.values()]
        drawn = axes.barh([*bars], sizes, left=ends, color=color, label=part)
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    labels = [f'{end:.1f}' for end in ends]
    axes.bar_label(drawn, labels, padding=3, fontsize='small')
    for card in forecast.cards:
        place = card.memory / GIB
        axes.axvline(place, color='black', linestyle='--')
        axes.text(
            *(place, 1.01, card.name),
            transform=axes.get_xaxis_transform(),
            ha='center',
            fontsize='small',
        )
    shape = forecast.shape
    title = f'{shape.images} x {shape.height}x{shape.width}'
    axes.invert_yaxis()
    axes.set_xlabel('GB (2^30 bytes)')
    axes.set_title(f'{forecast.name}\n{title}', pad=18, fontsize='medium')
    axes.margins(x=0.08)
    figure.legend(loc='outside lower center', ncols=3, fontsize='small')
    write_figure(path, figure, dpi=150)
