"""Every format is found out by its content and read into one form."""

import numpy as np
import pytest
from data_folders import (
    CLASSES,
    FOLDERS,
    NAMES,
    OBJECTS,
    coco,
    dota,
    label_map,
    picture,
    voc,
    voc_lists,
    write_images,
    yolo,
)

from mmflora.new_config.annotated_images import mask_of
from mmflora.new_config.findings import Findings
from mmflora.new_config.formats_of_data import read_folder
from mmflora.new_config.image_files import look_at_images
from mmflora.new_config.objects import check_objects
from mmflora.new_config.readers.index_masks import number_classes
from mmflora.new_config.writers.map_writer import index_map_of


def read(root, **options):
    findings = Findings(root)
    data = read_folder(root, findings, **options)
    look_at_images(data, findings)
    return data, findings


@pytest.mark.parametrize('name', FOLDERS)
def test_every_format_reads_the_same_objects(name, tmp_path):
    write, format_name, task = FOLDERS[name]
    write(tmp_path)

    data, findings = read(tmp_path)

    assert (data.format, data.task) == (format_name, task)
    by_name = {image.path.stem: image for image in data.images}
    assert sorted(by_name) == NAMES
    assert findings.text() == '      nothing'
    if task == 'semantic':
        number_classes(data, findings)
        assert data.classes == ['background', *CLASSES]
        for number, image in enumerate(by_name[n] for n in NAMES):
            np.testing.assert_array_equal(
                index_map_of(image, data), label_map(number)
            )
        return
    unnamed = name == 'data_science_bowl'
    assert data.classes == (['object'] if unnamed else list(CLASSES))
    check_objects(data, findings)
    for image, objects in zip(
        (by_name[n] for n in NAMES), OBJECTS, strict=True
    ):
        wanted = sorted(
            ('object' if unnamed else label, *box) for label, box in objects
        )
        got = sorted((i.label, *i.bounds) for i in image.instances)
        assert [g[0] for g in got] == [w[0] for w in wanted]
        np.testing.assert_allclose(
            [g[1:] for g in got], [w[1:] for w in wanted], atol=1e-6
        )
        if task == 'masks':
            for instance in image.instances:
                x1, y1, x2, y2 = map(round, instance.bounds)
                mask = mask_of(instance, image.size)
                assert mask.sum() == mask[y1:y2, x1:x2].sum()
                assert mask.sum() == (x2 - x1) * (y2 - y1)


def test_two_formats_at_once_are_an_error_that_names_both(tmp_path):
    coco(tmp_path / 'one')
    dota(tmp_path / 'two')
    with pytest.raises(ValueError, match='2 formats') as error:
        read(tmp_path)
    assert '--format coco: COCO JSON' in str(error.value)
    assert '--format dota: DOTA labelTxt' in str(error.value)

    data, _ = read(tmp_path, format_name='dota')
    assert data.task == 'rotated'


def test_a_folder_that_is_missing_empty_or_not_annotated(tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder'):
        read(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='has no image'):
        read(tmp_path)
    write_images(tmp_path)
    with pytest.raises(ValueError, match='labelme: LabelMe JSON'):
        read(tmp_path)


def test_names_of_yolo_classes_must_be_somewhere(tmp_path):
    yolo(tmp_path, names=None)
    with pytest.raises(ValueError, match='--classes cat dog'):
        read(tmp_path)
    data, _ = read(tmp_path, classes=['kitten', 'puppy'])
    assert data.counts() == {'kitten': 5, 'puppy': 3}


@pytest.mark.parametrize('folder', ['valid', 'val', 'validation'])
def test_folders_name_splits(folder, tmp_path):
    for part in ('train', folder, 'test'):
        dota(tmp_path / part)
    data, _ = read(tmp_path)
    assert data.has_splits
    assert [len(data.split(s)) for s in ('train', 'val', 'test')] == [6] * 3


def test_lists_of_voc_name_splits_and_the_tested_one_counts(tmp_path):
    voc(tmp_path)
    voc_lists(
        tmp_path, train=[0, 1, 2], val=[2, 3], test=[4], trainval=[0, 1, 2, 3]
    )
    data, findings = read(tmp_path)
    splits = {image.path.stem: image.split for image in data.images}
    assert splits == {
        NAMES[0]: 'train',
        NAMES[1]: 'train',
        NAMES[2]: 'val',
        NAMES[3]: 'val',
        NAMES[4]: 'test',
    }
    assert findings.count('two splits') == 1
    assert findings.count('no annotation') == 1  # no list names the sixth


def test_data_yaml_names_splits_by_folders_and_lists(tmp_path):
    yolo(tmp_path)
    (tmp_path / 'val.txt').write_text(f'./images/{NAMES[0]}.png\n')
    (tmp_path / 'data.yaml').write_text(
        'train: ../images\nval: val.txt\nnames: [cat, dog]\n'
    )
    data, _ = read(tmp_path)
    assert [i.path.stem for i in data.split('val')] == [NAMES[0]]
    assert len(data.split('train')) == 5


def test_voc_of_tools_that_count_from_zero(tmp_path):
    voc(tmp_path)
    file = tmp_path / 'Annotations' / f'{NAMES[1]}.xml'
    file.write_text(file.read_text().replace('>11<', '>0<'))
    data, _ = read(tmp_path)
    first = next(i for i in data.images if i.path.stem == NAMES[0])
    assert first.instances[0].bounds == (5, 6, 31, 26)


def test_xml_with_entities_is_not_read(tmp_path):
    voc(tmp_path)
    file = tmp_path / 'Annotations' / f'{NAMES[0]}.xml'
    file.write_text('<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]>' + file.read_text())
    data, findings = read(tmp_path)
    assert len(data.images) == 5
    assert 'declares a document type' in findings.text()


def test_images_of_one_name_in_several_folders(tmp_path):
    for number, part in enumerate(('train', 'test')):
        yolo(tmp_path / part)
        picture(number + 50).save(
            tmp_path / part / 'images' / f'{NAMES[0]}.png'
        )
    data, findings = read(tmp_path)
    assert len(data.images) == 12
    assert findings.text() == '      nothing'
    for image in data.images:
        assert image.source.parts[-3] == image.path.parts[-3] or (
            image.source == image.path
        )
