import json

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from demo.shapes import CLASSES
from demo.shapes.coco import to_annotation
from demo.shapes.scenes import SceneObject

SPLITS = [('train', 12), ('val', 6)]


def area(polygon):
    x, y = polygon.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_annotation_of_a_known_square():
    corners = np.array([(2.0, 3.0), (6.0, 3.0), (6.0, 8.0), (2.0, 8.0)])
    assert to_annotation(SceneObject(2, corners, corners), 10) == dict(
        category_id=3,
        segmentation=[[2.0, 3.0, 6.0, 3.0, 6.0, 8.0, 2.0, 8.0]],
        area=20,
        bbox=[2.0, 3.0, 4.0, 5.0],
        iscrowd=0,
    )


@pytest.mark.parametrize(('split', 'count'), SPLITS)
def test_pycocotools_reads_it(roots, split, count, capsys):
    coco = COCO(roots['coco'] / f'annotations/instances_{split}2017.json')
    assert coco.getImgIds() == list(range(1, count + 1))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    names = [entry['name'] for entry in coco.loadCats(coco.getCatIds())]
    assert tuple(names) == CLASSES
    assert {thing['category_id'] for thing in coco.anns.values()} == set(
        range(1, len(CLASSES) + 1)
    )
    for thing in coco.anns.values():
        mask = coco.annToMask(thing)
        assert mask.shape == (96, 96)
        assert thing['area'] == mask.sum()
        assert thing['iscrowd'] == 0
        ys, xs = np.nonzero(mask)
        x, y, width, height = thing['bbox']
        assert (x, x + width) == (xs.min(), xs.max() + 1)
        assert (y, y + height) == (ys.min(), ys.max() + 1)
        polygon = np.reshape(thing['segmentation'][0], (-1, 2))
        steps = np.linalg.norm(polygon - np.roll(polygon, 1, 0), axis=1)
        # Rounding moves an edge by half a pixel at most.
        assert abs(mask.sum() - area(polygon)) <= 0.5 * steps.sum()
        assert np.abs(polygon.min(axis=0) - (x, y)).max() < 2
        assert np.abs(polygon.max(axis=0) - (x + width, y + height)).max() < 2


def test_visible_objects_do_not_overlap(roots):
    path = roots['coco'] / 'annotations/instances_train2017.json'
    data = json.loads(path.read_text())
    for image in data['images']:
        masks = coco_mask.merge(
            coco_mask.frPyObjects(
                [
                    thing['segmentation'][0]
                    for thing in data['annotations']
                    if thing['image_id'] == image['id']
                ],
                96,
                96,
            )
        )
        areas = [
            thing['area']
            for thing in data['annotations']
            if thing['image_id'] == image['id']
        ]
        assert coco_mask.area(masks) == sum(areas)


@pytest.mark.parametrize(('split', 'count'), SPLITS)
def test_mmdet_reads_it(roots, split, count):
    from mmdet.datasets import CocoDataset

    with DefaultScope.overwrite_default_scope('mmengine'):
        dataset = CocoDataset(
            data_root=str(roots['coco']),
            ann_file=f'annotations/instances_{split}2017.json',
            data_prefix=dict(img=f'{split}2017/'),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True, min_size=8),
            pipeline=[
                dict(type='mmdet.LoadImageFromFile'),
                dict(
                    type='mmdet.LoadAnnotations',
                    with_bbox=True,
                    with_mask=True,
                ),
            ],
        )
    assert len(dataset) == count
    for sample in dataset:
        assert sample['img'].shape == (96, 96, 3)
        assert len(sample['gt_bboxes']) == len(sample['instances'])
        masks = sample['gt_masks'].to_ndarray()
        for box, mask in zip(sample['gt_bboxes'].tensor, masks, strict=True):
            ys, xs = np.nonzero(mask)
            extent = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert box.tolist() == extent
