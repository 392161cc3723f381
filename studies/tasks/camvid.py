# Street scenes: UperNet on crops at half of the images' size.
_base_ = [
    '../../configs/_base_/models/upernet_convnextv2-l.py',
    './lite0.py',
    '../../configs/_base_/default_runtime_mmseg.py',
]
weights_help = data_help = 'Run `python studies/prepare.py DATA`.'
norm_cfg = dict(type='BN', requires_grad=True)
crop_size = (160, 192)
# What has no class; the eleven others are 0 to 10.
void = 11
model = dict(
    data_preprocessor=dict(
        _base_.lite0.pixels, size=crop_size, seg_pad_val=void
    ),
    backbone=_base_.lite0.backbone,
    decode_head=dict(
        in_channels=_base_.lite0.channels,
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        ignore_index=void,
    ),
    auxiliary_head=dict(
        in_channels=_base_.lite0.channels[2],
        channels=32,
        num_classes=11,
        norm_cfg=norm_cfg,
        ignore_index=void,
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(240, 180),
        ratio_range=(1.0, 2.0),
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_size=crop_size,
        cat_max_ratio=0.75,
        ignore_index=void,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root='data/study/camvid/',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=False,
    ignore_index=void,
    metainfo=dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    ),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/train', seg_map_path='annotations/train'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/val', seg_map_path='annotations/val'
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/test', seg_map_path='annotations/test'
        ),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=void)
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=300, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=300,
        eta_min=1e-6,
        by_epoch=False,
    ),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=100),
    logger=dict(log_metric_by_epoch=False),
)
