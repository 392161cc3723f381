import json

import cv2
import numpy as np
import pytest
from mmengine.registry import DefaultScope

from demo.shapes import CLASSES
from demo.shapes.dota import to_line
from demo.shapes.scenes import SceneObject

SPLITS = [('trainval', 12), ('val', 6)]


def test_line_of_a_known_bar():
    corners = np.array([(2.0, 3.5), (6.25, 3.5), (6.25, 8.0), (2.0, 8.0)])
    thing = SceneObject(CLASSES.index('bar'), corners, corners)
    assert to_line(thing) == ('2.00 3.50 6.25 3.50 6.25 8.00 2.00 8.00 bar 0')


@pytest.mark.parametrize(('split', 'count'), SPLITS)
def test_files_pair_up_and_have_no_header(roots, split, count):
    folder = roots['dota'] / split
    images = sorted((folder / 'images').iterdir())
    texts = sorted((folder / 'annfiles').iterdir())
    assert [path.stem for path in images] == [path.stem for path in texts]
    assert images[0].name == 'P0001__96__0___0.png'
    assert len(images) == count
    for path in texts:
        lines = path.read_text().splitlines()
        assert lines
        for line in lines:
            *corners, name, difficulty = line.split()
            assert len(corners) == 8
            assert min(map(float, corners)) >= 0
            assert max(map(float, corners)) <= 96
            assert name in CLASSES
            assert difficulty == '0'


def test_objects_are_those_of_coco(roots):
    path = roots['coco'] / 'annotations/instances_val2017.json'
    things = json.loads(path.read_text())['annotations']
    lines = [
        line.split()
        for path in sorted((roots['dota'] / 'val/annfiles').iterdir())
        for line in path.read_text().splitlines()
    ]
    for thing, (*numbers, name, _) in zip(things, lines, strict=True):
        assert CLASSES[thing['category_id'] - 1] == name
        corners = np.array(numbers, np.float32).reshape(4, 2)
        outline = np.reshape(thing['segmentation'][0], (-1, 2))
        for point in outline.astype(np.float32):
            distance = cv2.pointPolygonTest(corners, point.tolist(), True)
            assert distance > -0.03
        # Half a pixel of rounding all round, as the mask's area has it.
        edge = 0.5 * cv2.arcLength(outline.astype(np.float32), True)
        assert cv2.contourArea(corners) >= thing['area'] - edge


def test_pictures_are_those_of_coco(roots):
    png = cv2.imread(str(roots['dota'] / 'val/images/P0002__96__0___0.png'))
    jpg = cv2.imread(str(roots['coco'] / 'val2017/000000000002.jpg'))
    difference = np.abs(png.astype(int) - jpg)
    # Compression at quality 95 blurs the colors of the noise.
    assert 0 < difference.mean() < 9


@pytest.mark.parametrize(('split', 'count'), SPLITS)
def test_mmrotate_reads_it(roots, split, count):
    from mmrotate.datasets import DOTADataset

    with DefaultScope.overwrite_default_scope('mmengine'):
        dataset = DOTADataset(
            data_root=str(roots['dota']),
            ann_file=f'{split}/annfiles/',
            data_prefix=dict(img_path=f'{split}/images/'),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True),
            pipeline=[
                dict(type='mmdet.LoadImageFromFile'),
                dict(
                    type='mmdet.LoadAnnotations',
                    with_bbox=True,
                    box_type='qbox',
                ),
                dict(
                    type='mmrotate.ConvertBoxType',
                    box_type_mapping=dict(gt_bboxes='rbox'),
                ),
            ],
        )
    assert len(dataset) == count
    seen = set()
    for sample in dataset:
        assert sample['img'].shape == (96, 96, 3)
        boxes = sample['gt_bboxes'].tensor.numpy()
        quads = [thing['bbox'] for thing in sample['instances']]
        for (x, y, width, height, _), quad in zip(boxes, quads, strict=True):
            corners = np.reshape(quad, (4, 2)).astype(np.float32)
            np.testing.assert_allclose((x, y), corners.mean(axis=0), atol=0.02)
            assert width * height == pytest.approx(
                cv2.contourArea(corners), rel=0.01
            )
        seen.update(sample['gt_bboxes_labels'].tolist())
    assert seen == set(range(len(CLASSES)))
