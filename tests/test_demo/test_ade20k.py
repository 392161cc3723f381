import cv2
import numpy as np
import pytest

from demo.shapes import CLASSES, SEG_CLASSES, SEG_PALETTE

SPLITS = [('training', 12), ('validation', 6)]


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_background_is_the_last_class():
    assert (*CLASSES, 'background') == SEG_CLASSES
    assert len(set(SEG_PALETTE)) == len(SEG_CLASSES)


@pytest.mark.parametrize(('split', 'count'), SPLITS)
def test_labels_are_in_range(roots, split, count):
    images = sorted((roots['ade20k'] / 'images' / split).iterdir())
    maps = sorted((roots['ade20k'] / 'annotations' / split).iterdir())
    assert [path.stem for path in images] == [path.stem for path in maps]
    assert len(maps) == count
    prefix = dict(training='train', validation='val')[split]
    assert images[0].name == f'ADE_{prefix}_00000001.jpg'
    seen = set()
    for path in maps:
        labels = read(path)
        assert labels.dtype == np.uint8
        assert labels.shape == (96, 96)
        seen.update(np.unique(labels).tolist())
    assert seen == set(range(len(SEG_CLASSES) + 1))


def test_labels_are_those_of_coco(roots, capsys):
    from pycocotools.coco import COCO

    coco = COCO(roots['coco'] / 'annotations/instances_val2017.json')
    for image_id in coco.getImgIds():
        folder = roots['ade20k'] / 'annotations/validation'
        labels = read(folder / f'ADE_val_{image_id:08d}.png')
        painted = np.full_like(labels, len(SEG_CLASSES))
        for thing in coco.imgToAnns[image_id]:
            painted[coco.annToMask(thing) == 1] = thing['category_id']
        wrong = (labels != 0) & (labels != painted)
        # Rasterising rounds some edges to the next pixel.
        assert wrong.mean() < 0.01


@pytest.mark.parametrize(('split', 'count'), SPLITS)
@pytest.mark.parametrize('name', ['BaseSegDataset', 'ADE20KDataset'])
def test_mmseg_reads_it(roots, name, split, count):
    from mmengine.registry import DefaultScope
    from mmseg import datasets

    options = (
        dict(
            metainfo=dict(classes=SEG_CLASSES, palette=SEG_PALETTE),
            img_suffix='.jpg',
            seg_map_suffix='.png',
            reduce_zero_label=True,
        )
        if name == 'BaseSegDataset'
        else {}
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = getattr(datasets, name)(
            data_root=str(roots['ade20k']),
            data_prefix=dict(
                img_path=f'images/{split}', seg_map_path=f'annotations/{split}'
            ),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
            ],
            **options,
        )
    assert len(dataset) == count
    seen = set()
    for sample in dataset:
        assert sample['img'].shape == (96, 96, 3)
        loaded = sample['gt_seg_map']
        written = read(sample['seg_map_path'])
        assert (loaded[written == 0] == 255).all()
        assert (loaded[written > 0] == written[written > 0] - 1).all()
        seen.update(np.unique(loaded).tolist())
    assert seen == {*range(len(SEG_CLASSES)), 255}
