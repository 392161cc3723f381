"""Pictures of what each method predicts on the same images."""

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from .image_scores import IGNORED, decode_labels, read_images
from .study_file import Task
from .study_results import StudyResults

WIDTH = 300
SHOWN_SCORE = 0.3


@dataclass(frozen=True)
class ImageSpread:
    """How well the methods did on an image, means over seeds.

    Attributes:
        image: Its path.
        scores: By method.
    """

    image: str
    scores: dict[str, float]

    @property
    def mean(self) -> float:
        """The mean over methods."""
        return statistics.fmean(self.scores.values())

    @property
    def spread(self) -> float:
        """The best method's score less the worst one's."""
        return max(self.scores.values()) - min(self.scores.values())


@dataclass(frozen=True)
class PictureRow:
    """One image, with the truth and with what each method predicts.

    Attributes:
        why: Why it was chosen.
        image: Its scores.
        pictures: JPEG data by title; the first two are input and truth.
    """

    why: str
    image: ImageSpread
    pictures: dict[str, bytes]


def image_spreads(results: StudyResults, task: Task) -> list[ImageSpread]:
    """Return the scores of the images that every method has a score for."""
    by_image: dict[str, dict[str, list[float]]] = {}
    methods = []
    for name in results.study.methods:
        cell = results.cells.get((task.name, name), {})
        if cell:
            methods.append(name)
        for line in cell.values():
            for entry in _images(results, line)['images']:
                if entry['score'] is not None:
                    known = by_image.setdefault(entry['image'], {})
                    known.setdefault(name, []).append(entry['score'])
    return [
        ImageSpread(
            image, {name: statistics.fmean(v) for name, v in known.items()}
        )
        for image, known in by_image.items()
        if len(known) == len(methods)
    ]


def choose_images(
    spreads: Sequence[ImageSpread], count: int
) -> list[tuple[str, ImageSpread]]:
    """Return images on which the methods differ most, and the hardest."""
    different = sorted(spreads, key=lambda s: (-s.spread, s.image))
    chosen = different[: (count + 1) // 2]
    rest = [item for item in spreads if item not in chosen]
    hardest = sorted(rest, key=lambda s: (s.mean, s.image))
    return [('methods differ most', item) for item in chosen] + [
        ('hardest', item) for item in hardest[: count - len(chosen)]
    ]


def picture_rows(results: StudyResults, task: Task) -> list[PictureRow]:
    """Draw the chosen images, without pictures where their files are gone."""
    seed = results.study.seeds[0]
    contents = {}
    for name in results.study.methods:
        line = results.cells.get((task.name, name), {}).get(seed)
        if line:
            content = _images(results, line)
            named = {entry['image']: entry for entry in content['images']}
            contents[name] = content, named
    chosen = choose_images(
        image_spreads(results, task), results.study.pictures
    )
    rows = []
    for why, spread in chosen:
        if not Path(spread.image).is_file():
            rows.append(PictureRow(f'{why}; the file is gone', spread, {}))
            continue
        photo = Image.open(spread.image).convert('RGB')
        pictures = {'image': _jpeg(photo)}
        for name, (content, named) in contents.items():
            entry = named.get(spread.image, {})
            colors = _colors(content)
            if entry.get('truth') and 'truth' not in pictures:
                drawn = draw_found(photo, entry['truth'], colors)
                pictures['truth'] = _jpeg(drawn)
            if entry.get('found'):
                drawn = draw_found(photo, entry['found'], colors)
                pictures[name] = _jpeg(drawn)
        if len(pictures) > 1:
            rows.append(PictureRow(why, spread, pictures))
    return rows


def draw_found(
    photo: Image.Image, found: dict[str, Any], colors: np.ndarray
) -> Image.Image:
    """Draw labels of pixels, or boxes and masks, over a photo.

    Args:
        photo: The image.
        found: As :func:`mmflora.study.image_scores.score_image` returns it.
        colors: Shape ``(classes, 3)``, from 0 to 255.
    """
    pixels = np.asarray(photo, np.float32).copy()
    if 'labels' in found:
        labels = decode_labels(found['labels'])
        valid = labels < min(len(colors), IGNORED)
        shade = colors[labels % len(colors)]
        if shade.shape[:2] == pixels.shape[:2]:
            pixels[valid] = 0.4 * pixels[valid] + 0.6 * shade[valid]
        return Image.fromarray(pixels.astype(np.uint8))
    shown = [i for i, s in enumerate(found['scores']) if s >= SHOWN_SCORE]
    masks: Any = found.get('masks')
    for index in shown if masks else ():
        mask = coco_masks.decode(masks[index]).astype(bool)
        if mask.shape == pixels.shape[:2]:
            color = colors[found['classes'][index] % len(colors)]
            pixels[mask] = 0.5 * pixels[mask] + 0.5 * color
    drawn = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(photo.width / 150))
    for index in () if masks else shown:
        box = found['boxes'][index]
        color = colors[found['classes'][index] % len(colors)]
        x1, y1, *rest = box
        corners = [x1, y1, rest[0], y1, *rest, x1, rest[-1]]
        points = box if len(box) == 8 else corners
        outline = tuple(int(channel) for channel in color)
        pen.line([*points, *points[:2]], fill=outline, width=width)
    return drawn


def _images(results: StudyResults, line: dict[str, Any]) -> dict[str, Any]:
    folder = results.study.work_dir / line['folder']
    return read_images(folder / 'images.json.gz')


def _colors(content: dict[str, Any]) -> np.ndarray:
    if content['palette']:
        return np.asarray(content['palette'], np.float32)
    table = matplotlib.colormaps['tab20'](range(20))
    return np.asarray(table, np.float32)[:, :3] * 255


def _jpeg(picture: Image.Image) -> bytes:
    size = (WIDTH, round(picture.height * WIDTH / picture.width))
    file = io.BytesIO()
    picture.resize(size).save(file, 'JPEG', quality=82)
    return file.getvalue()
