"""Write a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_OPTIONS = {
    '.jpg': [cv2.IMWRITE_JPEG_QUALITY, 95],
    '.png': [cv2.IMWRITE_PNG_COMPRESSION, 3],
}


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB picture or a map of one channel.

    Args:
        path: Its suffix, ``.jpg`` or ``.png``, says how.
        image: Shape ``(height, width, 3)`` or ``(height, width)``.
    """
    if image.ndim == 3:
        image = image[..., ::-1]
    done, data = cv2.imencode(path.suffix, image, _OPTIONS[path.suffix])
    if not done:
        raise OSError(f'Cannot encode the picture {path}.')
    path.write_bytes(data.tobytes())
