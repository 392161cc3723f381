atto = dict(
    backbone=dict(
        arch='convnextv2_atto',
        autocast=None,
        drop_path_rate=0.0,
        init_cfg=dict(
            checkpoint='work_dirs/shapes_base/base.pth', prefix='backbone.')),
    bbox_head=dict(
        fc_out_channels=256,
        in_channels=64,
        num_classes=6,
        reg_class_agnostic=True),
    neck=dict(in_channels=[
        40,
        80,
        160,
        320,
    ], out_channels=64),
    roi_extractor=dict(out_channels=64),
    rpn_head=dict(
        anchor_generator=dict(scales=[
            4,
        ]), feat_channels=64, in_channels=64),
    test_cfg=dict(
        rcnn=dict(max_per_img=20), rpn=dict(max_per_img=100, nms_pre=200)),
    train_cfg=dict(
        rcnn=dict(sampler=dict(num=32)),
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(max_per_img=100, nms_pre=200)),
    weights_help=
    'Train it with `python tools/train.py configs/full/mask-rcnn_convnextv2-atto_full_shapes-source.py`.'
)
auto_scale_lr = dict(base_batch_size=8, enable=False)
backend_args = None
base_weights = 'work_dirs/shapes_base/base.pth'
custom_hooks = [
    dict(type='mmflora.AdapterGradientHook'),
    dict(type='mmflora.IterationSeedHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmflora',
    ])
data_help = 'Write the generated data with `python tools/make_shapes.py`.'
data_root = 'data/shapes/target/coco/'
dataset_type = 'CocoDataset'
default_hooks = dict(
    checkpoint=dict(
        _scope_='mmdet',
        interval=1,
        max_keep_ckpts=3,
        type='mmflora.AdapterCheckpointHook'),
    logger=dict(_scope_='mmdet', interval=50, type='LoggerHook'),
    param_scheduler=dict(_scope_='mmdet', type='ParamSchedulerHook'),
    sampler_seed=dict(_scope_='mmdet', type='DistSamplerSeedHook'),
    timer=dict(_scope_='mmdet', type='IterTimerHook'),
    visualization=dict(_scope_='mmdet', type='DetVisualizationHook'))
default_scope = 'mmdet'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
load_from = None
log_level = 'INFO'
log_processor = dict(
    _scope_='mmdet', by_epoch=True, type='LogProcessor', window_size=50)
metainfo = dict(
    classes=(
        'circle',
        'triangle',
        'square',
        'bar',
        'star',
        'cross',
    ),
    palette=[
        (
            42,
            157,
            244,
        ),
        (
            240,
            56,
            107,
        ),
        (
            52,
            199,
            123,
        ),
        (
            255,
            183,
            0,
        ),
        (
            167,
            101,
            247,
        ),
        (
            232,
            86,
            12,
        ),
    ])
method = dict(
    adapter=dict(kernel_rank=2, rank=16, scale=4.0, type='FLoRA'),
    type='mmflora.FLoRAConvNeXt')
model = dict(
    _scope_='mmdet',
    backbone=dict(
        adapter=dict(kernel_rank=2, rank=16, scale=4.0, type='FLoRA'),
        arch='convnextv2_atto',
        autocast=None,
        channels_last=True,
        drop_path_rate=0.0,
        init_cfg=dict(
            checkpoint='work_dirs/shapes_base/base.pth',
            prefix='backbone.',
            type='Pretrained'),
        out_indices=(
            0,
            1,
            2,
            3,
        ),
        type='mmflora.FLoRAConvNeXt'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_mask=True,
        pad_size_divisor=32,
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='DetDataPreprocessor'),
    neck=dict(
        in_channels=[
            40,
            80,
            160,
            320,
        ],
        num_outs=5,
        out_channels=64,
        type='FPN'),
    roi_head=dict(
        bbox_head=dict(
            bbox_coder=dict(
                target_means=[
                    0.0,
                    0.0,
                    0.0,
                    0.0,
                ],
                target_stds=[
                    0.1,
                    0.1,
                    0.2,
                    0.2,
                ],
                type='DeltaXYWHBBoxCoder'),
            fc_out_channels=256,
            in_channels=64,
            loss_bbox=dict(loss_weight=1.0, type='L1Loss'),
            loss_cls=dict(
                loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False),
            num_classes=6,
            reg_class_agnostic=True,
            roi_feat_size=7,
            type='Shared2FCBBoxHead'),
        bbox_roi_extractor=dict(
            featmap_strides=[
                4,
                8,
                16,
                32,
            ],
            out_channels=64,
            roi_layer=dict(output_size=7, sampling_ratio=0, type='RoIAlign'),
            type='SingleRoIExtractor'),
        mask_head=dict(
            class_agnostic=True,
            conv_out_channels=64,
            in_channels=64,
            loss_mask=dict(
                loss_weight=1.0, type='CrossEntropyLoss', use_mask=True),
            num_classes=6,
            num_convs=2,
            type='FCNMaskHead'),
        mask_roi_extractor=dict(
            featmap_strides=[
                4,
                8,
                16,
                32,
            ],
            out_channels=64,
            roi_layer=dict(output_size=14, sampling_ratio=0, type='RoIAlign'),
            type='SingleRoIExtractor'),
        type='StandardRoIHead'),
    rpn_head=dict(
        anchor_generator=dict(
            ratios=[
                0.5,
                1.0,
                2.0,
            ],
            scales=[
                4,
            ],
            strides=[
                4,
                8,
                16,
                32,
                64,
            ],
            type='AnchorGenerator'),
        bbox_coder=dict(
            target_means=[
                0.0,
                0.0,
                0.0,
                0.0,
            ],
            target_stds=[
                1.0,
                1.0,
                1.0,
                1.0,
            ],
            type='DeltaXYWHBBoxCoder'),
        feat_channels=64,
        in_channels=64,
        loss_bbox=dict(loss_weight=1.0, type='L1Loss'),
        loss_cls=dict(
            loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=True),
        type='RPNHead'),
    test_cfg=dict(
        rcnn=dict(
            mask_thr_binary=0.5,
            max_per_img=20,
            nms=dict(iou_threshold=0.5, type='nms'),
            score_thr=0.05),
        rpn=dict(
            max_per_img=100,
            min_bbox_size=0,
            nms=dict(iou_threshold=0.7, type='nms'),
            nms_pre=200)),
    train_cfg=dict(
        rcnn=dict(
            assigner=dict(
                ignore_iof_thr=-1,
                match_low_quality=True,
                min_pos_iou=0.5,
                neg_iou_thr=0.5,
                pos_iou_thr=0.5,
                type='MaxIoUAssigner'),
            debug=False,
            mask_size=28,
            pos_weight=-1,
            sampler=dict(
                add_gt_as_proposals=True,
                neg_pos_ub=-1,
                num=32,
                pos_fraction=0.25,
                type='RandomSampler')),
        rpn=dict(
            allowed_border=-1,
            assigner=dict(
                ignore_iof_thr=-1,
                match_low_quality=True,
                min_pos_iou=0.3,
                neg_iou_thr=0.3,
                pos_iou_thr=0.7,
                type='MaxIoUAssigner'),
            debug=False,
            pos_weight=-1,
            sampler=dict(
                add_gt_as_proposals=False,
                neg_pos_ub=-1,
                num=64,
                pos_fraction=0.5,
                type='RandomSampler')),
        rpn_proposal=dict(
            max_per_img=100,
            min_bbox_size=0,
            nms=dict(iou_threshold=0.7, type='nms'),
            nms_pre=200)),
    type='MaskRCNN')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5, norm_type=2),
    constructor='mmflora.PEFTOptimWrapperConstructor',
    optimizer=dict(
        betas=(
            0.9,
            0.999,
        ), lr=0.001, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(
        adapter_lr_mult=4.0, bias_decay_mult=0.0, norm_decay_mult=0.0),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=20, start_factor=0.1, type='LinearLR'),
    dict(
        begin=0,
        by_epoch=True,
        convert_to_iter_based=True,
        end=5,
        eta_min=1e-05,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resume = False
shapes = dict(
    data_help='Write the generated data with `python tools/make_shapes.py`.',
    metainfo=dict(
        classes=(
            'circle',
            'triangle',
            'square',
            'bar',
            'star',
            'cross',
        ),
        palette=[
            (
                42,
                157,
                244,
            ),
            (
                240,
                56,
                107,
            ),
            (
                52,
                199,
                123,
            ),
            (
                255,
                183,
                0,
            ),
            (
                167,
                101,
                247,
            ),
            (
                232,
                86,
                12,
            ),
        ]))
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        _scope_='mmdet',
        ann_file='annotations/instances_val2017.json',
        backend_args=None,
        data_prefix=dict(img='val2017/'),
        data_root='data/shapes/target/coco/',
        metainfo=dict(
            classes=(
                'circle',
                'triangle',
                'square',
                'bar',
                'star',
                'cross',
            ),
            palette=[
                (
                    42,
                    157,
                    244,
                ),
                (
                    240,
                    56,
                    107,
                ),
                (
                    52,
                    199,
                    123,
                ),
                (
                    255,
                    183,
                    0,
                ),
                (
                    167,
                    101,
                    247,
                ),
                (
                    232,
                    86,
                    12,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                128,
                128,
            ), type='Resize'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
                type='PackDetInputs'),
        ],
        test_mode=True,
        type='CocoDataset'),
    drop_last=False,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(_scope_='mmdet', shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    _scope_='mmdet',
    ann_file='data/shapes/target/coco/annotations/instances_val2017.json',
    backend_args=None,
    format_only=False,
    metric=[
        'bbox',
        'segm',
    ],
    type='CocoMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(
        128,
        128,
    ), type='Resize'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
        type='PackDetInputs'),
]
train_cfg = dict(max_epochs=5, type='EpochBasedTrainLoop', val_interval=1)
train_dataloader = dict(
    batch_sampler=dict(_scope_='mmdet', type='AspectRatioBatchSampler'),
    batch_size=8,
    dataset=dict(
        _scope_='mmdet',
        ann_file='annotations/instances_train2017.json',
        backend_args=None,
        data_prefix=dict(img='train2017/'),
        data_root='data/shapes/target/coco/',
        filter_cfg=dict(filter_empty_gt=True, min_size=8),
        metainfo=dict(
            classes=(
                'circle',
                'triangle',
                'square',
                'bar',
                'star',
                'cross',
            ),
            palette=[
                (
                    42,
                    157,
                    244,
                ),
                (
                    240,
                    56,
                    107,
                ),
                (
                    52,
                    199,
                    123,
                ),
                (
                    255,
                    183,
                    0,
                ),
                (
                    167,
                    101,
                    247,
                ),
                (
                    232,
                    86,
                    12,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(keep_ratio=True, scale=(
                128,
                128,
            ), type='Resize'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PackDetInputs'),
        ],
        type='CocoDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(_scope_='mmdet', shuffle=True, type='DefaultSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(keep_ratio=True, scale=(
        128,
        128,
    ), type='Resize'),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PackDetInputs'),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        _scope_='mmdet',
        ann_file='annotations/instances_val2017.json',
        backend_args=None,
        data_prefix=dict(img='val2017/'),
        data_root='data/shapes/target/coco/',
        metainfo=dict(
            classes=(
                'circle',
                'triangle',
                'square',
                'bar',
                'star',
                'cross',
            ),
            palette=[
                (
                    42,
                    157,
                    244,
                ),
                (
                    240,
                    56,
                    107,
                ),
                (
                    52,
                    199,
                    123,
                ),
                (
                    255,
                    183,
                    0,
                ),
                (
                    167,
                    101,
                    247,
                ),
                (
                    232,
                    86,
                    12,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                128,
                128,
            ), type='Resize'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
                type='PackDetInputs'),
        ],
        test_mode=True,
        type='CocoDataset'),
    drop_last=False,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(_scope_='mmdet', shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    _scope_='mmdet',
    ann_file='data/shapes/target/coco/annotations/instances_val2017.json',
    backend_args=None,
    format_only=False,
    metric=[
        'bbox',
        'segm',
    ],
    type='CocoMetric')
vis_backends = [
    dict(_scope_='mmdet', type='LocalVisBackend'),
]
visualizer = dict(
    _scope_='mmdet',
    name='visualizer',
    type='DetLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
weights_help = 'Train it with `python tools/train.py configs/full/mask-rcnn_convnextv2-atto_full_shapes-source.py`.'
