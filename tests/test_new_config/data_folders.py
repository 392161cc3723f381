"""Small data folders of every format, all of the same images and objects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
CLASSES = ('cat', 'dog')
# Class, then x1 y1 x2 y2; image by image.
OBJECTS = [
    [('cat', (4, 5, 30, 25)), ('dog', (32, 8, 60, 40))],
    [('dog', (10, 10, 40, 30))],
    [('cat', (1, 2, 21, 32))],
    [],
    [('cat', (8, 8, 24, 24)), ('cat', (30, 4, 50, 20))],
    [('dog', (2, 20, 34, 44)), ('cat', (40, 10, 60, 30))],
]
NAMES = [f'photo_{i}' for i in range(len(OBJECTS))]


def picture(number, size=(WIDTH, HEIGHT)):
    """Return an image that resembles no other: coarse random tiles."""
    tiles = np.random.default_rng(number).integers(
        0, 255, (6, 8, 3), dtype=np.uint8
    )
    return Image.fromarray(tiles).resize(size, Image.Resampling.NEAREST)


def write_images(folder, suffix='.png', names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        picture(number).save(folder / f'{name}{suffix}')


def ring(box):
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def coco(root, masks=False):
    write_images(root / 'images')
    images, annotations = [], []
    for number, objects in enumerate(OBJECTS):
        images.append(
            dict(
                id=number,
                file_name=f'{NAMES[number]}.png',
                width=WIDTH,
                height=HEIGHT,
            )
        )
        for label, (x1, y1, x2, y2) in objects:
            entry = dict(
                id=len(annotations),
                image_id=number,
                category_id=CLASSES.index(label) + 5,
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=0,
            )
            if masks:
                entry['segmentation'] = [ring((x1, y1, x2, y2))]
            annotations.append(entry)
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 5, name=n) for i, n in enumerate(CLASSES)],
    )
    (root / 'annotations.json').write_text(json.dumps(content))


def coco_masks(root):
    coco(root, masks=True)


def voc(root, suffix='.png'):
    write_images(root / 'JPEGImages', suffix)
    (root / 'Annotations').mkdir()
    for name, objects in zip(NAMES, OBJECTS, strict=True):
        rows = ''.join(
            f'<object><name>{label}</name><difficult>0</difficult><bndbox>'
            # VOC counts from 1.
            f'<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>'
            f'<xmax>{x2 + 1}</xmax><ymax>{y2 + 1}</ymax></bndbox></object>'
            for label, (x1, y1, x2, y2) in objects
        )
        (root / 'Annotations' / f'{name}.xml').write_text(
            f'<annotation><filename>{name}{suffix}</filename><size>'
            f'<width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth>'
            f'</size>{rows}</annotation>'
        )


def voc_lists(root, **lists):
    folder = root / 'ImageSets' / 'Main'
    folder.mkdir(parents=True)
    for split, numbers in lists.items():
        text = ''.join(f'{NAMES[i]}\n' for i in numbers)
        (folder / f'{split}.txt').write_text(text)


def yolo(root, line=None, names='data.yaml'):
    write_images(root / 'images')
    (root / 'labels').mkdir()
    if names == 'data.yaml':
        (root / names).write_text('nc: 2\nnames: {0: cat, 1: dog}\n')
    elif names:
        (root / names).write_text('\n'.join(CLASSES))
    for name, objects in zip(NAMES, OBJECTS, strict=True):
        if objects:  # an image without labels has no file
            rows = [
                f'{CLASSES.index(label)} {(line or center_line)(box)}'
                for label, box in objects
            ]
            (root / 'labels' / f'{name}.txt').write_text('\n'.join(rows))


def center_line(box):
    x1, y1, x2, y2 = box
    return (
        f'{(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} '
        f'{(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}'
    )


def corner_line(box):
    return ' '.join(
        str(v / (HEIGHT if i % 2 else WIDTH)) for i, v in enumerate(ring(box))
    )


def five_points_line(box):
    x1, y1, x2, y2 = box
    extra = f'{(x1 + x2) / 2 / WIDTH} {y1 / HEIGHT}'
    first, _, rest = corner_line(box).partition(f' {x2 / WIDTH} ')
    return f'{first} {extra} {x2 / WIDTH} {rest}'


def yolo_obb(root):
    yolo(root, corner_line)


def yolo_segment(root):
    yolo(root, five_points_line, names='classes.txt')


def labelme(root, kind='rectangle'):
    write_images(root)
    for name, objects in zip(NAMES, OBJECTS, strict=True):
        shapes = []
        for label, box in objects:
            points = np.reshape(
                box if kind == 'rectangle' else ring(box), (-1, 2)
            ).tolist()
            shapes.append(dict(label=label, points=points, shape_type=kind))
        (root / f'{name}.json').write_text(
            json.dumps(
                dict(
                    shapes=shapes,
                    imagePath=f'{name}.png',
                    imageWidth=WIDTH,
                    imageHeight=HEIGHT,
                )
            )
        )


def labelme_polygons(root):
    labelme(root, 'polygon')


def dota(root, header=''):
    write_images(root / 'images')
    (root / 'labelTxt').mkdir()
    for name, objects in zip(NAMES, OBJECTS, strict=True):
        rows = ''.join(
            f'{" ".join(map(str, ring(box)))} {label} 0\n'
            for label, box in objects
        )
        (root / 'labelTxt' / f'{name}.txt').write_text(header + rows)


def dota_with_header(root):
    dota(root, 'imagesource:GoogleEarth\ngsd:0.14\n')


def label_map(number):
    """Return a map: 0 background, 1 cat, 2 dog."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, (x1, y1, x2, y2) in OBJECTS[number]:
        values[y1:y2, x1:x2] = CLASSES.index(label) + 1
    return values


def index_masks(root):
    write_images(root / 'images', '.jpg')
    (root / 'annotations').mkdir()
    (root / 'classes.txt').write_text('background\ncat\ndog\n')
    for number, name in enumerate(NAMES):
        values = Image.fromarray(label_map(number))
        values.save(root / 'annotations' / f'{name}.png')


def object_masks(root):
    """Write ``images/NAME.png`` and ``masks/NAME/CLASS/*.png``."""
    write_images(root / 'images')
    for name, objects in zip(NAMES, OBJECTS, strict=True):
        for number, (label, box) in enumerate(objects):
            write_mask(root / 'masks' / name / label / f'{number}.png', box)


def data_science_bowl(root):
    """Write ``NAME/images/NAME.png`` and ``NAME/masks/*.png``."""
    for number, (name, objects) in enumerate(zip(NAMES, OBJECTS, strict=True)):
        folder = root / name
        (folder / 'images').mkdir(parents=True)
        picture(number).save(folder / 'images' / f'{name}.png')
        for i, (_, box) in enumerate(objects):
            write_mask(folder / 'masks' / f'{i:04}.png', box)


def write_mask(file: Path, box):
    x1, y1, x2, y2 = box
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[y1:y2, x1:x2] = 255
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


FOLDERS = {
    'coco': (coco, 'coco', 'boxes'),
    'coco_masks': (coco_masks, 'coco', 'masks'),
    'voc': (voc, 'voc', 'boxes'),
    'yolo': (yolo, 'yolo', 'boxes'),
    'yolo_segment': (yolo_segment, 'yolo', 'masks'),
    'yolo_obb': (yolo_obb, 'yolo', 'rotated'),
    'labelme': (labelme, 'labelme', 'boxes'),
    'labelme_polygons': (labelme_polygons, 'labelme', 'masks'),
    'dota': (dota, 'dota', 'rotated'),
    'dota_with_header': (dota_with_header, 'dota', 'rotated'),
    'object_masks': (object_masks, 'object-masks', 'masks'),
    'data_science_bowl': (data_science_bowl, 'object-masks', 'masks'),
    'index_masks': (index_masks, 'index-masks', 'semantic'),
}
"""By name: what writes it, its format, what its annotations are."""
