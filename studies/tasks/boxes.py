# Boxes from above: Oriented R-CNN.
_base_ = [
    '../../configs/_base_/models/oriented-rcnn-le90_convnextv2-l.py',
    './lite0.py',
    '../../configs/_base_/default_runtime_mmrotate.py',
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
    ),
    train_cfg=_base_.lite0.train_cfg,
    test_cfg=dict(
        _base_.lite0.test_cfg, rcnn=dict(nms_pre=200, max_per_img=50)
    ),
)

scale = (224, 224)
train_pipeline = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.Resize', scale=scale, keep_ratio=True),
    dict(
        type='mmdet.RandomFlip',
        prob=0.75,
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=scale, keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(
        type='mmdet.PackDetInputs',
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
    type='DOTADataset',
    img_suffix='jpg',
    metainfo=dict(classes=('box',), palette=[(240, 180, 40)]),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_root='data/study/boxes/train/',
        ann_file='labelTxt/',
        data_prefix=dict(img_path='images/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
# Of the two splits that are held out, the larger one is for the tables.
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_root='data/study/boxes/test/',
        ann_file='labelTxt/',
        data_prefix=dict(img_path='images/'),
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
        data_root='data/study/boxes/valid/',
        ann_file='labelTxt/',
        data_prefix=dict(img_path='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# Precision over thresholds as in COCO, since at 0.5 alone every method finds
# all boxes, by DOTA's metric; processes of its own would share one core.
val_evaluator = dict(
    type='mmflora.ThreadedDOTAMetric',
    eval_mode='area',
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
)
test_evaluator = val_evaluator

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
