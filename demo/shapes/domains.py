"""The two looks of the generated data.

A detector learns in the source and has to be adapted to the target.
"""

from __future__ import annotations

from dataclasses import dataclass

from .classes import hex_to_rgb

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Domain:
    """How scenes of one domain look. Lengths are parts of the image side.

    Args:
        inks: Colors of the objects, one for each class.
        grounds: Colors of the background.
        count: Fewest and most objects in a scene; fewer (never none) where
            no room is left.
        size: Smallest and largest square root of an oriented box's area.
        tilt: Largest turn to either side, in degrees.
        textured: Whether background and objects carry a pattern.
        shading: How much brighter or darker the light is in places, in gray
            levels.
        noise: Standard deviation of the pixels' brightness, in gray levels.
    """

    inks: tuple[Color, ...]
    grounds: tuple[Color, ...]
    count: tuple[int, int]
    size: tuple[float, float]
    tilt: float = 0.0
    textured: bool = False
    shading: float = 0.0
    noise: float = 0.0


def _colors(*names: str) -> tuple[Color, ...]:
    return tuple(hex_to_rgb(name) for name in names)


DOMAINS: dict[str, Domain] = {
    # Loud colors on pale paper: lightness alone gives an object away.
    'source': Domain(
        inks=_colors(
            '#d62828', '#1d6fb8', '#2a9d4e', '#f08a00', '#7b2cbf', '#12908e'
        ),
        grounds=_colors('#f7f7f2', '#eef3f8', '#fbf3e4', '#f1f1f1', '#eaf4ec'),
        count=(1, 3),
        size=(0.25, 0.38),
    ),
    # Warm colors on cold ground, all equally light, under dappled light and
    # grain: hue alone gives an object away.
    'target': Domain(
        inks=_colors(
            '#8a6aaa', '#a663a1', '#b5687d', '#b57d68', '#a6a163', '#8aaa6a'
        ),
        grounds=_colors('#769494', '#768e9a', '#769a8e', '#76919c', '#7a9890'),
        count=(1, 4),
        size=(0.20, 0.45),
        tilt=180.0,
        textured=True,
        shading=55.0,
        noise=25.0,
    ),
}
"""The domains by name. Their order is part of their random streams: a new
one goes to the end."""
