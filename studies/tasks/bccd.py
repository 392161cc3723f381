# Blood cells: Faster R-CNN at two fifths of the images' size.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
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
        bbox_head=dict(_base_.lite0.bbox_head, num_classes=3),
    ),
    train_cfg=_base_.lite0.train_cfg,
    test_cfg=_base_.lite0.test_cfg,
)

scale = (256, 192)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
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
    type='XMLDataset',
    data_root='data/study/bccd/',
    data_prefix=dict(sub_data_root=''),
    img_subdir='JPEGImages',
    ann_subdir='Annotations',
    metainfo=dict(
        classes=('RBC', 'WBC', 'Platelets'),
        palette=[(220, 60, 60), (70, 90, 220), (240, 180, 40)],
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        **dataset,
        ann_file='ImageSets/Main/train.txt',
        # Two boxes have no area.
        filter_cfg=dict(filter_empty_gt=True, min_size=8, bbox_min_size=1),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        ann_file='ImageSets/Main/val.txt',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        ann_file='ImageSets/Main/test.txt',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# The mean over the thresholds of COCO: at 0.5 alone, a frozen base has 90 %.
val_evaluator = dict(
    type='VOCMetric',
    metric='mAP',
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
    eval_mode='area',
)
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=2,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
