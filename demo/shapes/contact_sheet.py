"""Draw written data with its annotations, for a person to look at.

The sheet is drawn from the files, not from the scenes: what it shows is
what a data set class will read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .ade20k import SEG_CLASSES, SEG_PALETTE, Ade20kWriter
from .classes import CLASSES, PALETTE
from .coco import CocoWriter
from .dota import DotaWriter
from .images import write_image

Picture = NDArray[np.uint8]

_TILE = 208
_MARGIN = 10
_STRIP = 30
_PAPER = (250, 250, 250)
_SUBPIXEL_BITS = 4


def _enlarge(image: Picture) -> Picture:
    enlarged = cv2.resize(image, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(enlarged, np.uint8)


def _read(path: Path, flag: int = cv2.IMREAD_COLOR) -> Picture:
    image = cv2.imread(str(path), flag)
    if image is None:
        raise FileNotFoundError(f'Cannot read the picture {path}.')
    if image.ndim == 3:
        image = image[..., ::-1]
    return np.ascontiguousarray(image, np.uint8)


def _outline(
    image: Picture, points: NDArray[np.float64], label: int, scale: float
) -> None:
    """Draw a closed line in the color of the class."""
    fixed = np.rint((points * scale - 0.5) * 2**_SUBPIXEL_BITS)
    cv2.polylines(
        image,
        [fixed.astype(np.int32)],
        True,
        PALETTE[label],
        2,
        cv2.LINE_AA,
        _SUBPIXEL_BITS,
    )


def _tint(
    image: Picture, labels: NDArray[np.uint8], strength: float
) -> Picture:
    """Mix in the color of each pixel's label, counted from 1."""
    colors = np.array([(0, 0, 0), *SEG_PALETTE], np.float32)[labels]
    share = np.where(labels > 0, strength, 0)[..., None]
    return np.rint(image * (1 - share) + colors * share).astype(np.uint8)


def _coco_tiles(home: Path, count: int) -> tuple[list[Picture], list[Picture]]:
    """The pictures alone, and with masks and boxes."""
    root = home / CocoWriter.folder
    path = root / 'annotations' / 'instances_train2017.json'
    data = json.loads(path.read_text(encoding='utf-8'))
    plain, marked = [], []
    for entry in data['images'][:count]:
        image = _enlarge(_read(root / 'train2017' / entry['file_name']))
        scale = _TILE / entry['width']
        things = [
            thing
            for thing in data['annotations']
            if thing['image_id'] == entry['id']
        ]
        labels = np.zeros(image.shape[:2], np.uint8)
        for thing in things:
            polygon = np.reshape(thing['segmentation'][0], (-1, 2)) * scale
            cv2.fillPoly(
                labels,
                [np.rint(polygon - 0.5).astype(np.int32)],
                thing['category_id'],
            )
        drawn = _tint(image, labels, 0.75)
        for thing in things:
            x, y, width, height = thing['bbox']
            box = np.array(
                [
                    (x, y),
                    (x + width, y),
                    (x + width, y + height),
                    (x, y + height),
                ]
            )
            _outline(drawn, box, thing['category_id'] - 1, scale)
        plain.append(image)
        marked.append(drawn)
    return plain, marked


def _dota_tiles(home: Path, count: int) -> list[Picture]:
    """The pictures with oriented boxes."""
    root = home / DotaWriter.folder / 'trainval'
    tiles = []
    for path in sorted((root / 'annfiles').iterdir())[:count]:
        image = _read(root / 'images' / f'{path.stem}.png')
        tile = _enlarge(image)
        for line in path.read_text(encoding='utf-8').splitlines():
            *corners, name, _ = line.split()
            box = np.array(corners, float).reshape(4, 2)
            _outline(tile, box, CLASSES.index(name), _TILE / image.shape[1])
        tiles.append(tile)
    return tiles


def _ade20k_tiles(home: Path, count: int) -> list[Picture]:
    """The label maps."""
    root = home / Ade20kWriter.folder / 'annotations' / 'training'
    tiles = []
    for path in sorted(root.iterdir())[:count]:
        labels = _read(path, cv2.IMREAD_UNCHANGED)
        black = np.zeros((*labels.shape, 3), np.uint8)
        tile = cv2.resize(
            _tint(black, labels, 1.0),
            (_TILE, _TILE),
            interpolation=cv2.INTER_NEAREST,
        )
        tiles.append(np.asarray(tile, np.uint8))
    return tiles


def _strip(
    parts: Sequence[tuple[str, tuple[int, int, int] | None]], width: int
) -> Picture:
    """Write a line of texts, each behind a chip where it has a color."""
    strip = Image.new('RGB', (width, _STRIP), _PAPER)
    pen = ImageDraw.Draw(strip)
    font = ImageFont.load_default(15)
    x, middle = float(_MARGIN), _STRIP / 2
    for text, color in parts:
        if color is not None:
            pen.rounded_rectangle(
                (x, middle - 7, x + 14, middle + 7), 4, color
            )
            x += 20
        pen.text((x, middle), text, (30, 30, 30), font, anchor='lm')
        x += pen.textlength(text, font) + 18
    return np.asarray(strip)


def _rows(home: Path, count: int) -> list[tuple[str, list[Picture]]]:
    """Draw a row of tiles, with its caption, for each view that is there."""
    rows = []
    if (home / CocoWriter.folder).is_dir():
        plain, marked = _coco_tiles(home, count)
        rows += [('Picture', plain), ('COCO: boxes and masks', marked)]
    if (home / DotaWriter.folder).is_dir():
        rows.append(('DOTA: oriented boxes', _dota_tiles(home, count)))
    if (home / Ade20kWriter.folder).is_dir():
        rows.append(
            ('ADE20K: label map, edges unlabelled', _ade20k_tiles(home, count))
        )
    return rows


def draw_contact_sheet(home: Path, out_file: Path, count: int = 6) -> None:
    """Draw the first training pictures in every format that is there.

    Args:
        home: Folder of one domain.
        out_file: A ``.png`` file.
        count: How many pictures, at most.

    Raises:
        FileNotFoundError: The folder holds no format.
    """
    rows = _rows(home, count)
    if not rows:
        raise FileNotFoundError(
            f'{home} holds no shapes data; write it with write_shapes.'
        )
    step = _TILE + _MARGIN
    # The legend needs some width, however few pictures there are.
    width = max(_MARGIN + step * len(rows[0][1]), 4 * step)
    legend = list(zip(SEG_CLASSES, SEG_PALETTE, strict=True))
    strips = [_strip([(f'{home.name} domain:', None), *legend], width)]
    for caption, tiles in rows:
        row = np.full((step, width, 3), _PAPER, np.uint8)
        for k, tile in enumerate(tiles):
            left = _MARGIN + k * step
            row[:_TILE, left : left + _TILE] = tile
        strips += [_strip([(caption, None)], width), row]
    write_image(out_file, np.concatenate(strips))
