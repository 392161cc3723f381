# Nuclei: Mask R-CNN on both kinds of image.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    './lite0.py',
    '../../configs/_base_/default_runtime_mmdet.py',
]
weights_help = data_help = 'Run `python studies/prepare.py DATA`.'
model = dict(
    data_preprocessor=_base_.lite0.pixels,
    backbone=_base_.lite0.backbone,
    neck=_base_.lite0.neck,
    rpn_head=_base_.lite0.rpn_head,
    roi_head=dict(
        bbox_roi_extractor=_base_.lite0.roi_extractor,
        bbox_head=dict(_base_.lite0.bbox_head, num_classes=1),
        mask_roi_extractor=_base_.lite0.roi_extractor,
        mask_head=dict(
            num_convs=2, in_channels=64, conv_out_channels=64, num_classes=1
        ),
    ),
    train_cfg=_base_.lite0.train_cfg,
    test_cfg=_base_.lite0.test_cfg,
)

scale = (320, 256)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(
        type='RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
    ),
]
dataset = dict(
    type='CocoDataset',
    data_root='data/study/nuclei/',
    data_prefix=dict(img='images/'),
    metainfo=dict(classes=('nucleus',), palette=[(240, 180, 40)]),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        **dataset,
        ann_file='train.json',
        filter_cfg=dict(filter_empty_gt=True, min_size=8),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset, ann_file='val.json', test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset, ann_file='test.json', test_mode=True, pipeline=test_pipeline
    ),
)
val_evaluator = dict(
    type='CocoMetric',
    ann_file='data/study/nuclei/val.json',
    metric=['bbox', 'segm'],
    format_only=False,
)
test_evaluator = dict(val_evaluator, ann_file='data/study/nuclei/test.json')

# As many steps for each kind of image, of which there are 200 and 66.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160, val_interval=160)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=160,
        eta_min=1e-6,
        by_epoch=False,
    ),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=80),
    logger=dict(log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
