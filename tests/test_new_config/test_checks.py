"""Each flaw of a folder is found, counted, named and dealt with."""

import json
from collections import Counter

import numpy as np
import pytest
from data_folders import (
    HEIGHT,
    NAMES,
    WIDTH,
    coco,
    coco_masks,
    dota,
    index_masks,
    object_masks,
    picture,
    voc,
    yolo,
)
from PIL import Image

from mmflora.new_config.annotated_images import ImageSet, mask_of
from mmflora.new_config.findings import KINDS, Findings
from mmflora.new_config.formats_of_data import read_folder
from mmflora.new_config.image_files import (
    find_repeats,
    look_at_images,
    note_repeats,
)
from mmflora.new_config.objects import check_label_maps, check_objects
from mmflora.new_config.readers.index_masks import number_classes
from mmflora.new_config.splits import split_images
from mmflora.new_config.writers.map_writer import index_map_of


def checked(root, ignored=(), **options) -> tuple[ImageSet, Findings]:
    findings = Findings(root)
    data = read_folder(root, findings, **options)
    look_at_images(data, findings)
    repeats = find_repeats(data.images)
    if data.task == 'semantic':
        number_classes(data, findings, ignored)
        check_label_maps(data, findings)
    else:
        check_objects(data, findings)
    split_images(data, repeats, findings)
    note_repeats(data, repeats, findings)
    return data, findings


def edit_xml(root, old, new, name=NAMES[0]):
    file = root / 'Annotations' / f'{name}.xml'
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def edit_coco(root, edit):
    file = root / 'annotations.json'
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def image(root, name=NAMES[0]):
    return root / 'JPEGImages' / f'{name}.png'


def remove_image(root):
    image(root).unlink()


def cut_image(root):
    image(root).write_bytes(image(root).read_bytes()[:60])


def add_image(root):
    picture(77).save(root / 'JPEGImages' / 'new.png')


def break_xml(root):
    edit_xml(root, '</annotation>', '')


def other_size(root):
    edit_xml(root, f'<width>{WIDTH}', '<width>640')


def flat_box(root):
    edit_xml(root, '<xmax>31', '<xmax>5')


def far_box(root):
    edit_xml(root, '<xmin>5</xmin>', '<xmin>500</xmin>')
    edit_xml(root, '<xmax>31</xmax>', '<xmax>600</xmax>')


def long_box(root):
    edit_xml(root, '<xmax>31', f'<xmax>{WIDTH + 30}')


def swapped_box(root):
    edit_xml(root, '<xmin>5</xmin>', '<xmin>31</xmin>')
    edit_xml(root, '<xmax>31</xmax>', '<xmax>5</xmax>')


def not_a_number(root):
    edit_xml(root, '<xmax>31', '<xmax>nan')


def double_object(root):
    file = root / 'Annotations' / f'{NAMES[1]}.xml'
    text = file.read_text()
    start, end = text.index('<object>'), text.index('</annotation>')
    file.write_text(text[:end] + text[start:end] + text[end:])


def gray(root):
    picture(0).convert('L').save(image(root))


def alpha(root):
    picture(0).convert('RGBA').save(image(root))


def sixteen_bit(root):
    values = np.asarray(picture(0).convert('L')).astype(np.uint16) * 256
    Image.fromarray(values).save(image(root))


def odd_name(root):
    edit_xml(root, '<name>cat', '<name>Cat ')


# What breaks a folder of VOC, the kind of the finding, how many, how many
# images and objects are left of 6 and 8, and a part of the report.
FLAWS = {
    'removed image': (remove_image, 'no image', 1, 5, 6, 'left out'),
    'truncated image': (cut_image, 'unreadable', 1, 5, 6, 'left out'),
    'image alone': (add_image, 'no annotation', 1, 6, 8, 'new.png'),
    'broken XML': (break_xml, 'bad annotation', 1, 5, 6, 'left out'),
    'other size': (other_size, 'size', 1, 6, 8, 'the annotation 640x48'),
    'flat box': (flat_box, 'no area', 1, 6, 7, 'cat 4 5 4 25'),
    'box outside': (far_box, 'outside', 1, 6, 7, 'cat 499 5 599 25'),
    'box over the edge': (long_box, 'clipped', 1, 6, 8, 'cut at the edge'),
    'swapped corners': (swapped_box, 'corners', 1, 6, 8, 'put in order'),
    'no number': (not_a_number, 'bad annotation', 1, 6, 7, 'object 0: nan'),
    'object twice': (double_object, 'twice', 1, 6, 8, 'left out'),
    'no objects': (lambda root: None, 'empty', 1, 6, 8, 'kept'),
    'gray': (gray, 'one channel', 1, 6, 8, 'three equal channels'),
    'alpha': (alpha, 'four channels', 1, 6, 8, 'without the alpha'),
    '16 bits': (sixteen_bit, 'other mode', 1, 6, 8, 'mode I;16'),
    'two spellings': (odd_name, 'similar names', 1, 6, 8, "'Cat', 'cat'"),
}


@pytest.mark.parametrize('flaw', FLAWS)
def test_flaws_of_images_and_boxes(flaw, tmp_path):
    breaks, kind, count, images, objects, said = FLAWS[flaw]
    voc(tmp_path)
    before = {
        path: path.read_bytes()
        for path in tmp_path.rglob('*')
        if path.is_file()
    }
    breaks(tmp_path)
    changed = {
        path: path.read_bytes()
        for path in tmp_path.rglob('*')
        if path.is_file()
    }

    data, findings = checked(tmp_path)

    assert findings.count(kind) == count
    report = findings.text()
    assert f'{count}  {KINDS[kind]}' in report
    assert said in report
    assert len(data.images) == images
    assert sum(data.counts().values()) == objects
    # The folder stays as it is.
    assert changed == {
        path: path.read_bytes()
        for path in tmp_path.rglob('*')
        if path.is_file()
    }
    assert before.keys() - changed.keys() <= {image(tmp_path)}


def test_a_box_over_the_edge_is_cut_and_a_rotated_one_stays(tmp_path):
    voc(tmp_path / 'voc')
    long_box(tmp_path / 'voc')
    data, _ = checked(tmp_path / 'voc')
    first = next(i for i in data.images if i.path.stem == NAMES[0])
    assert first.instances[0].bounds == (4, 5, WIDTH, 25)

    dota(tmp_path / 'dota')
    file = tmp_path / 'dota' / 'labelTxt' / f'{NAMES[1]}.txt'
    file.write_text('30 20 80 20 80 40 30 40 cat 1\n')
    data, findings = checked(tmp_path / 'dota')
    second = next(i for i in data.images if i.path.stem == NAMES[1])
    assert second.instances[0].bounds == (30, 20, 80, 40)
    assert second.instances[0].difficult
    assert 'kept whole' in findings.text()


@pytest.mark.parametrize(
    ('edit', 'kind', 'objects'),
    [
        (lambda c: c['images'].append(c['images'][0]), 'duplicate id', 8),
        (
            lambda c: c['annotations'][0].update(id=1),
            'duplicate id',
            8,
        ),
        (
            lambda c: c['annotations'][0].update(category_id=99),
            'unknown class',
            7,
        ),
        (
            lambda c: c['annotations'][0].update(image_id=99),
            'bad annotation',
            7,
        ),
        (
            lambda c: c['annotations'][0].update(bbox=[1, 2, None, 4]),
            'bad annotation',
            7,
        ),
        (lambda c: c['annotations'][0].pop('bbox'), 'bad annotation', 7),
        (
            lambda c: c['images'][0].update(file_name='gone.png'),
            'no image',
            6,
        ),
    ],
)
def test_flaws_of_coco(edit, kind, objects, tmp_path):
    coco(tmp_path)
    edit_coco(tmp_path, edit)
    data, findings = checked(tmp_path)
    assert findings.count(kind) == 1
    assert sum(data.counts().values()) == objects


def test_unknown_and_missing_classes(tmp_path):
    yolo(tmp_path)
    label = tmp_path / 'labels' / f'{NAMES[0]}.txt'
    label.write_text('7 0.5 0.5 0.1 0.1\nx y\n' + label.read_text())
    data, findings = checked(tmp_path, classes=['cat', 'dog', 'cow'])
    assert findings.count('unknown class') == 1
    assert findings.count('bad annotation') == 1
    assert findings.count('class without examples') >= 3  # no cow anywhere
    assert data.counts() == {'cat': 5, 'dog': 3, 'cow': 0}


def test_classes_that_the_user_does_not_name_are_left_out(tmp_path):
    voc(tmp_path)
    data, findings = checked(tmp_path, classes=['dog'])
    assert data.counts() == {'dog': 3}
    assert findings.count('unknown class') == 5


def test_repeats_across_splits_leave_training(tmp_path):
    for part in ('train', 'val'):
        voc(tmp_path / part)
    for number, name in enumerate(NAMES[2:]):
        file = tmp_path / 'val' / 'JPEGImages' / f'{name}.png'
        picture(100 + number).save(file)
    # The second is nearly the same: brighter, and in another compression.
    bright = picture(1).point(lambda v: min(255, round(v * 0.8 + 20)))
    bright.save(tmp_path / 'val' / 'JPEGImages' / f'{NAMES[1]}.png')

    data, findings = checked(tmp_path)

    assert findings.count('repeat') == 1
    assert findings.count('near repeat') == 1
    assert f'val/JPEGImages/{NAMES[1]}.png: like' in findings.text()
    assert Counter(i.split for i in data.images) == {'train': 5, 'val': 6}


@pytest.mark.parametrize('orientation', range(1, 9))
def test_annotations_turn_with_exif(orientation, tmp_path):
    """What was drawn on the stored image lies on the same pixels after."""
    coco_masks(tmp_path)
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[5:25, 4:30] = 255  # where the first object is
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / 'images' / f'{NAMES[0]}.png'
    Image.fromarray(stored).save(file, exif=exif)
    edit_coco(
        tmp_path,
        lambda c: c.update(
            annotations=[
                a
                for a in c['annotations']
                if a['image_id'] or a['category_id'] == 5
            ]
        ),
    )

    data, findings = checked(tmp_path)

    first = next(i for i in data.images if i.path == file)
    turned = orientation > 4
    assert first.size == ((HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT))
    assert findings.count('exif') == (orientation > 1)
    if turned:  # only then the sizes say what was annotated
        import cv2

        seen = cv2.imread(str(file))[..., 0] > 0
        mask = mask_of(first.instances[0], first.size)
        np.testing.assert_array_equal(mask != 0, seen)
        x1, y1, x2, y2 = map(int, first.instances[0].bounds)
        assert seen[y1:y2, x1:x2].all()


def test_label_maps_with_void_other_sizes_and_colors(tmp_path):
    index_masks(tmp_path)
    folder = tmp_path / 'annotations'
    values = np.asarray(Image.open(folder / f'{NAMES[0]}.png')).copy()
    values[:4] = 3
    Image.fromarray(values).save(folder / f'{NAMES[0]}.png')
    Image.new('L', (WIDTH, 20)).save(folder / f'{NAMES[1]}.png')
    picture(3).save(folder / f'{NAMES[2]}.png')

    data, findings = checked(tmp_path)

    assert findings.count('unknown class') == 1
    assert data.values[3] == 255
    assert findings.count('map size') == 1
    assert 'it has colors' in findings.text()
    assert len(data.images) == 4

    data, _ = checked(tmp_path, ignored=[0])  # as ADE20K: 0 is no class
    assert data.values == {0: 255, 1: 0, 2: 1, 3: 2}


def test_label_maps_of_two_values_and_without_names(tmp_path):
    index_masks(tmp_path)
    (tmp_path / 'classes.txt').unlink()
    data, findings = checked(tmp_path)
    assert data.classes == ['class_0', 'class_1', 'class_2']
    assert findings.count('unnamed classes') == 1

    for file in (tmp_path / 'annotations').iterdir():
        values = np.asarray(Image.open(file))
        Image.fromarray((values > 0).astype(np.uint8) * 255).save(file)
    data, _ = checked(tmp_path)
    assert data.classes == ['background', 'foreground']
    assert data.values == {0: 0, 255: 1}


def test_masks_that_are_empty_or_of_another_size(tmp_path):
    object_masks(tmp_path)
    folder = tmp_path / 'masks' / NAMES[0]
    Image.new('L', (WIDTH, HEIGHT)).save(folder / 'cat' / '0.png')
    Image.new('L', (9, 9), 255).save(folder / 'dog' / '1.png')
    data, findings = checked(tmp_path)
    assert findings.count('no area') == 1
    assert findings.count('map size') == 1
    assert sum(data.counts().values()) == 6


def many(tmp_path, count=60):
    """Write a folder where one class of three is rare."""
    rng = np.random.default_rng(0)
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'images').mkdir()
    (tmp_path / 'classes.txt').write_text('often\nsome\nrare\n')
    for i in range(count):
        picture(i).save(tmp_path / 'images' / f'{i}.png')
        rows = ['0 0.5 0.5 0.2 0.2'] * int(rng.integers(1, 6))
        rows += ['1 0.2 0.2 0.2 0.2'] * (i % 5 == 0)
        rows += ['2 0.8 0.8 0.2 0.2'] * (i % 12 == 0)
        text = '\n'.join(
            f'{row[:-3]}{0.2 + 0.01 * j}' for j, row in enumerate(rows)
        )
        (tmp_path / 'labels' / f'{i}.txt').write_text(text)


def test_splits_are_seeded_and_stratified(tmp_path):
    many(tmp_path)
    data, _ = checked(tmp_path)
    sizes = {s: len(data.split(s)) for s in ('train', 'val', 'test')}
    assert sum(sizes.values()) == 60
    assert abs(sizes['train'] - 42) <= 4
    for name, total in data.counts().items():
        for split, part in (('train', 0.7), ('val', 0.15), ('test', 0.15)):
            # Whole images only: one image more or less of a rare class.
            spare = max(1.5, 0.15 * total)
            assert abs(data.counts(split)[name] - part * total) <= spare
    again, _ = checked(tmp_path)
    assert [i.split for i in again.images] == [i.split for i in data.images]


def test_images_that_repeat_stay_in_one_split(tmp_path):
    many(tmp_path)
    for i in range(0, 60, 2):
        picture(i + 1).save(tmp_path / 'images' / f'{i}.png')
    data, findings = checked(tmp_path)
    split = {int(i.path.stem): i.split for i in data.images}
    assert all(split[i] == split[i + 1] for i in range(0, 60, 2))
    assert findings.count('same split') == 30


def test_a_single_image_is_an_error(tmp_path):
    voc(tmp_path)
    for name in NAMES[1:]:
        image(tmp_path, name).unlink()
    with pytest.raises(ValueError, match='1 usable image'):
        checked(tmp_path)


@pytest.mark.parametrize('stored', [True, False])
def test_a_label_map_turns_with_its_image_if_it_was_drawn_so(stored, tmp_path):
    index_masks(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # upright, the image is high instead of wide
    picture(0).save(tmp_path / 'images' / f'{NAMES[0]}.jpg', exif=exif)
    file = tmp_path / 'annotations' / f'{NAMES[0]}.png'
    values = np.asarray(Image.open(file))
    turned = np.rot90(values, -1)
    if not stored:
        Image.fromarray(turned.copy()).save(file)
    data, findings = checked(tmp_path)
    first = next(i for i in data.images if i.path.stem == NAMES[0])
    np.testing.assert_array_equal(index_map_of(first, data), turned)
    said = 'turned with' if stored else 'loaded upright'
    assert said in findings.text()
