from pathlib import Path

import pytest
from mmengine.config import Config

from mmflora.memory_estimate.batch import (
    BatchShape,
    batch_shape,
    make_batch,
    parse_image_size,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZES = {
    'flora/mask-rcnn_convnextv2-l_flora-r16_coco.py': (4, 800, 1333),
    'flora/oriented-rcnn-le90_convnextv2-l_flora-r16_dota.py': (2, 1024, 1024),
    'flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py': (4, 512, 512),
    'flora/upernet_internvit-6b_flora-r16_ade20k-504x504.py': (4, 504, 504),
    'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py': (8, 128, 128),
    'flora/dino-5scale_swin-l_flora-r16_coco.py': (2, 800, 1333),
}


@pytest.mark.parametrize('name', SIZES)
def test_configs_say_what_their_batches_are(name):
    cfg = Config.fromfile(str(CONFIGS / name), import_custom_modules=False)
    shape = batch_shape(cfg)
    assert shape.images == cfg.train_dataloader.batch_size
    assert (shape.height, shape.width) == SIZES[name][1:]
    assert shape.source


def training(*pipeline, **model):
    steps = [dict(step) for step in pipeline]
    return Config(
        dict(
            model=dict(type='X', **model),
            train_dataloader=dict(batch_size=2, dataset=dict(pipeline=steps)),
        )
    )


@pytest.mark.parametrize(
    ('step', 'size'),
    [
        (dict(type='Resize', scale=(1333, 800), keep_ratio=True), (800, 1333)),
        (dict(type='Resize', scale=(600, 900), keep_ratio=True), (600, 900)),
        (dict(type='Resize', scale=(600, 900)), (600, 900)),
        (dict(type='Resize', scale=(60, 90), keep_ratio=False), (90, 60)),
        (
            dict(
                type='RandomChoiceResize',
                scales=[(1333, 480), (1333, 800), (1333, 640)],
                keep_ratio=True,
            ),
            (800, 1333),
        ),
        (
            dict(
                type='mmdet.RandomResize',
                scale=(1024, 1024),
                ratio_range=(0.1, 2.0),
                keep_ratio=True,
            ),
            (2048, 2048),
        ),
        (dict(type='RandomCrop', crop_size=(300, 400)), (300, 400)),
        (dict(type='RandomCrop', crop_size=300), (300, 300)),
        (
            dict(
                type='RandomChoice',
                transforms=[
                    [dict(type='Resize', scale=(1333, 400), keep_ratio=True)],
                    [
                        dict(type='Resize', scale=(1333, 800)),
                        dict(type='RandomCrop', crop_size=(600, 900)),
                        dict(type='RandomFlip'),
                    ],
                    [dict(type='RandomFlip')],
                ],
            ),
            (600, 900),
        ),
    ],
)
def test_what_sets_the_size(step, size):
    shape = batch_shape(training(step))
    assert (shape.height, shape.width) == size
    assert step['type'].rsplit('.')[-1] in shape.source


def test_the_last_step_counts():
    resize = dict(type='Resize', scale=(2048, 512), keep_ratio=True)
    crop = dict(type='RandomCrop', crop_size=(512, 512))
    relative = dict(
        type='RandomCrop', crop_type='relative_range', crop_size=(0.5, 0.5)
    )
    shape = batch_shape(training(resize, crop, relative))
    assert (shape.height, shape.width) == (512, 512)


def test_a_wrapper_s_steps_come_after_those_of_what_it_wraps():
    cfg = training(dict(type='RandomCrop', crop_size=(64, 64)))
    cfg.train_dataloader.dataset['dataset'] = dict(
        pipeline=[dict(type='Resize', scale=(2048, 512))]
    )
    shape = batch_shape(cfg)
    assert (shape.height, shape.width) == (64, 64)


def test_arguments_come_first():
    cfg = training(dict(type='Resize', scale=(1333, 800)))
    shape = batch_shape(cfg, 7, (32, 48), 3)
    assert (shape.images, shape.height, shape.width) == (7, 32, 48)
    assert shape.objects == 3


def test_a_segmenter_pads_to_its_size():
    cfg = training(
        dict(type='RandomCrop', crop_size=(64, 64)),
        data_preprocessor=dict(size=(96, 128)),
    )
    shape = batch_shape(cfg)
    assert (shape.height, shape.width) == (96, 128)


@pytest.mark.parametrize(
    ('text', 'size'), [('800x1333', (800, 1333)), ('512', (512, 512))]
)
def test_sizes(text, size):
    assert parse_image_size(text) == size


@pytest.mark.parametrize('text', ['', '0', '512x', '512,512', '12x-3', 'big'])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match='--size: .*800x1333'):
        parse_image_size(text)


def test_what_is_not_there():
    plain = training(dict(type='LoadImageFromFile'))
    with pytest.raises(ValueError, match='sets no image size.*--size HxW'):
        batch_shape(plain)
    with pytest.raises(ValueError, match='0 images.*--batch'):
        batch_shape(plain, 0)
    with pytest.raises(ValueError, match='--objects.*got 0'):
        batch_shape(plain, 1, (8, 8), 0)
    del plain.train_dataloader['batch_size']
    with pytest.raises(ValueError, match='None images'):
        batch_shape(plain, size=(8, 8))


@pytest.mark.parametrize(('objects', 'classes'), [(5, 5), (20, 7)])
def test_segments_are_of_several_classes(objects, classes):
    cfg = training(decode_head=[dict(num_classes=9), dict(num_classes=7)])
    cfg.default_scope = 'mmseg'
    batch = make_batch(cfg, BatchShape(2, 32, 48, objects))
    for sample in batch['data_samples']:
        assert sample.gt_sem_seg.data.shape == (1, 32, 48)
        assert sample.gt_sem_seg.data.unique().tolist() == [*range(classes)]


@pytest.mark.parametrize('segments', [False, True])
def test_detectors_get_what_their_pipeline_loads(segments):
    cfg = training(dict(type='LoadAnnotations', with_seg=segments))
    cfg.default_scope = 'mmdet'
    (sample,) = make_batch(cfg, BatchShape(1, 32, 48, 3))['data_samples']
    assert len(sample.gt_instances) == 3
    assert 'masks' not in sample.gt_instances
    assert ('gt_sem_seg' in sample) is segments
