"""A sheet of annotated samples, as a picture."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mmflora.files.atomic import staged_file

from .annotated_images import AnnotatedImage, ImageSet, Instance, mask_of
from .readers.index_masks import IGNORED
from .writers.map_writer import index_map_of

_TILES, _COLUMNS, _SIDE, _MARGIN = 12, 4, 360, 8
_LINE = 18


def write_sheet(
    data: ImageSet, palette: list[tuple[int, int, int]], file: Path
) -> None:
    """Draw samples with their annotations, each class at least once.

    Args:
        data: The images, as training will see them.
        palette: The color of each class.
        file: The PNG to write.
    """
    chosen = _chosen(data)
    tiles = [_tile(image, data, palette) for image in chosen]
    tall = max(tile.height for tile in tiles)
    rows = -(-len(chosen) // _COLUMNS)
    legend = _legend(data, palette, _COLUMNS * (_SIDE + _MARGIN) + _MARGIN)
    sheet = Image.new(
        'RGB',
        (legend.width, rows * (tall + _LINE + _MARGIN) + legend.height),
        'white',
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, (image, tile) in enumerate(zip(chosen, tiles, strict=True)):
        left = _MARGIN + number % _COLUMNS * (_SIDE + _MARGIN)
        top = number // _COLUMNS * (tall + _LINE + _MARGIN)
        name = f'{image.split}: {image.path.name}'
        while font.getlength(name) > _SIDE:
            name = name[:-1]
        draw.text((left, top + 2), name, 'black', font)
        sheet.paste(tile, (left, top + _LINE))
    sheet.paste(legend, (0, sheet.height - legend.height))
    with staged_file(file) as partial:
        sheet.save(partial)


def _chosen(data: ImageSet) -> list[AnnotatedImage]:
    """Return images of all splits that show every class, if there is room."""
    images = [i for i in data.images if i.instances or i.label_map]
    random.Random(0).shuffle(images)
    images.sort(key=lambda image: image.split != 'train')
    chosen: list[AnnotatedImage] = []
    seen: set[Any] = set()
    for image in images:
        shows: set[Any] = {i.label for i in image.instances}
        shows |= {
            data.values[v]
            for v, count in image.pixels.items()
            if count > 100 and data.values.get(v, IGNORED) != IGNORED
        }
        if shows - seen and len(chosen) < _TILES:
            chosen.append(image)
            seen |= shows
    for split in ('val', 'test', 'train', 'train'):
        more = [i for i in images if i.split == split and i not in chosen]
        chosen += more[: min(3, _TILES - len(chosen))]
    return chosen or data.images[:_TILES]


def _tile(
    image: AnnotatedImage,
    data: ImageSet,
    palette: list[tuple[int, int, int]],
) -> Image.Image:
    with Image.open(image.path) as opened:
        picture = ImageOps.exif_transpose(opened).convert('RGB')
    if data.values:
        picture = _blended(picture, index_map_of(image, data), palette)
    else:
        for instance in image.instances:
            if instance.polygons or instance.run_lengths:
                color = palette[data.classes.index(instance.label)]
                picture = _masked(picture, instance, image, color)
    scale = _SIDE / max(picture.size)
    size = [max(1, round(v * scale)) for v in picture.size]
    picture = picture.resize((size[0], size[1]))
    if not data.values:
        _draw_outlines(picture, image, data, palette, scale)
    return picture


def _draw_outlines(
    picture: Image.Image,
    image: AnnotatedImage,
    data: ImageSet,
    palette: list[tuple[int, int, int]],
    scale: float,
) -> None:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(11)
    few = len(image.instances) <= 15
    for instance in image.instances:
        color = palette[data.classes.index(instance.label)]
        x1, y1, x2, y2 = (v * scale for v in instance.bounds)
        if instance.quad:
            points = [(x * scale, y * scale) for x, y in instance.points]
            draw.polygon(points, outline=color, width=2)
            # The first side, from which the angle counts.
            draw.line(points[:2], fill='white', width=1)
        else:
            draw.rectangle((x1, y1, x2, y2), outline=color, width=2)
        if few:
            place = draw.textbbox((x1, max(0, y1 - 12)), instance.label, font)
            draw.rectangle(place, fill=color)
            text = 'black' if sum(color) > 380 else 'white'
            draw.text(place[:2], instance.label, text, font, anchor='lt')


def _masked(
    picture: Image.Image,
    instance: Instance,
    image: AnnotatedImage,
    color: tuple[int, int, int],
) -> Image.Image:
    inside = mask_of(instance, image.size) != 0
    pixels = np.array(picture, np.float32)
    pixels[inside] = pixels[inside] * 0.5 + np.asarray(color) * 0.5
    return Image.fromarray(pixels.astype(np.uint8))


def _blended(
    picture: Image.Image, values: Any, palette: list[tuple[int, int, int]]
) -> Image.Image:
    colors = np.zeros((IGNORED + 1, 3), np.float32)
    colors[: len(palette)] = palette
    pixels = np.array(picture, np.float32) * 0.4 + colors[values] * 0.6
    return Image.fromarray(pixels.astype(np.uint8))


def _legend(
    data: ImageSet, palette: list[tuple[int, int, int]], width: int
) -> Image.Image:
    """Draw the names of the classes in their colors."""
    font = ImageFont.load_default(13)
    places, left, top = [], _MARGIN, _MARGIN
    for name in data.classes:
        length = round(font.getlength(name)) + 34
        if left + length > width and left > _MARGIN:
            left, top = _MARGIN, top + _LINE + 4
        places.append((left, top))
        left += length
    legend = Image.new('RGB', (width, top + _LINE + _MARGIN), 'white')
    draw = ImageDraw.Draw(legend)
    for name, color, (left, top) in zip(
        data.classes, palette, places, strict=True
    ):
        draw.rectangle((left, top, left + 14, top + 14), fill=color)
        draw.text((left + 20, top), name, 'black', font)
    return legend
