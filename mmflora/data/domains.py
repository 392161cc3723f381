"""The two looks of the generated data.

A detector learns in the source and has to be adapted to the target.
"""

from __future__ import annotations

from dataclasses import dataclass

from .shapes import hex_to_rgb

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Domain:
    """How scenes of one domain look. Lengths are parts of the image side.

    Args:
        inks: Colours of the objects, drawn independently of their class.
        grounds: Colours of the background.
        count: Fewest and most objects in a scene; fewer (never none) where
            no room is left.
        size: Smallest and largest square root of an oriented box's area.
        tilt: Largest turn to either side, in degrees.
        textured: Whether background and objects carry a pattern.
        shading: How much the light varies over the picture, in grey levels.
        noise: Standard deviation of the pixel noise, in grey levels.
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
    'source': Domain(
        inks=_colors(
            '#d62828', '#1d6fb8', '#2a9d4e', '#f08a00', '#7b2cbf', '#12908e'
        ),
        grounds=_colors('#f7f7f2', '#eef3f8', '#fbf3e4', '#f1f1f1', '#eaf4ec'),
        count=(2, 4),
        size=(0.20, 0.29),
    ),
    'target': Domain(
        inks=_colors(
            '#f2cc8f', '#f4a59a', '#a8dadc', '#d8c4f0', '#b7d59b', '#f7e7ce'
        ),
        grounds=_colors(
            '#26404f', '#3a4a2f', '#54403a', '#45385c', '#2f5550', '#5a4a2c'
        ),
        count=(2, 5),
        size=(0.13, 0.38),
        tilt=180.0,
        textured=True,
        shading=28.0,
        noise=9.0,
    ),
}
"""The domains by name. Their order is part of their random streams: a new
one goes to the end."""
