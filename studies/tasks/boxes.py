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

scale = (288, 288)
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
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_root='data/study/boxes/train/',
        ann_file='labelTxt/',
        data_prefix=dict(img_path='images/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
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
test_dataloader = dict(
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
# The metric of DOTA; processes of its own would share one core.
val_evaluator = dict(type='mmflora.ThreadedDOTAMetric', iou_thrs=[0.5, 0.75])
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=4,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
