"""Colors for the classes."""

import colorsys

# Turns between neighbors in the list: far apart, and none comes twice.
_GOLDEN = 0.618033988749895


def colors(count: int) -> list[tuple[int, int, int]]:
    """Return colors that differ well, the same ones each time."""
    result = []
    for i in range(count):
        value, strength = (1.0, 0.75, 0.9)[i % 3], (0.85, 1.0, 0.6)[i % 3]
        red, green, blue = colorsys.hsv_to_rgb(
            i * _GOLDEN % 1.0, strength, value
        )
        result.append(
            (round(red * 255), round(green * 255), round(blue * 255))
        )
    return result
