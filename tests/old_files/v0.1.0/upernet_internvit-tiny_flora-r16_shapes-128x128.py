auto_scale_lr = dict(base_batch_size=8, enable=False)
base_weights = 'work_dirs/shapes_base_internvit/base.pth'
crop_size = (
    128,
    128,
)
custom_hooks = [
    dict(type='mmflora.AdapterGradientHook'),
    dict(type='mmflora.IterationSeedHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmflora',
    ])
data_help = 'Write the generated data with `python tools/make_shapes.py`.'
data_root = 'data/shapes/target/ade/ADEChallengeData2016'
dataset_type = 'BaseSegDataset'
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False,
        interval=16000,
        max_keep_ckpts=3,
        type='mmflora.AdapterCheckpointHook'),
    logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='SegVisualizationHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False)
metainfo = dict(
    classes=(
        'circle',
        'triangle',
        'square',
        'bar',
        'star',
        'cross',
        'background',
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
        (
            45,
            48,
            56,
        ),
    ])
method = dict(
    adapter=dict(rank=16, scale=0.04, type='FLoRA'),
    type='mmflora.FLoRAInternViT')
model = dict(
    auxiliary_head=dict(
        align_corners=False,
        channels=32,
        concat_input=False,
        dropout_ratio=0.1,
        in_channels=64,
        in_index=2,
        loss_decode=dict(
            loss_weight=0.4, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(requires_grad=True, type='BN'),
        num_classes=7,
        num_convs=1,
        type='FCNHead'),
    backbone=dict(
        adapter=dict(rank=16, scale=0.04, type='FLoRA'),
        autocast=None,
        depth=4,
        drop_path_rate=0.0,
        dtype=None,
        embed_dims=64,
        img_size=128,
        init_cfg=dict(
            checkpoint='work_dirs/shapes_base_internvit/base.pth',
            prefix='backbone.',
            type='Pretrained'),
        mlp_ratio=4.0,
        num_heads=4,
        out_indices=(
            0,
            1,
            2,
            3,
        ),
        patch_size=8,
        type='mmflora.FLoRAInternViT',
        with_cp=True),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_val=0,
        seg_pad_val=255,
        size=(
            128,
            128,
        ),
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=32,
        dropout_ratio=0.1,
        in_channels=[
            64,
            64,
            64,
            64,
        ],
        in_index=[
            0,
            1,
            2,
            3,
        ],
        loss_decode=dict(
            loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(requires_grad=True, type='BN'),
        num_classes=7,
        pool_scales=(
            1,
            2,
            3,
            6,
        ),
        type='UPerHead'),
    pretrained=None,
    test_cfg=dict(crop_size=(
        128,
        128,
    ), mode='slide', stride=(
        85,
        85,
    )),
    train_cfg=dict(),
    type='EncoderDecoder')
norm_cfg = dict(requires_grad=True, type='BN')
optim_wrapper = dict(
    clip_grad=dict(max_norm=35, norm_type=2),
    constructor='mmflora.PEFTOptimWrapperConstructor',
    optimizer=dict(
        betas=(
            0.9,
            0.999,
        ), lr=0.002, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=20, start_factor=0.1, type='LinearLR'),
    dict(
        begin=0,
        by_epoch=False,
        end=320,
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
    batch_size=1,
    dataset=dict(
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        data_root='data/shapes/target/ade/ADEChallengeData2016',
        metainfo=dict(
            classes=(
                'circle',
                'triangle',
                'square',
                'bar',
                'star',
                'cross',
                'background',
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
                (
                    45,
                    48,
                    56,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                512,
                128,
            ), type='Resize'),
            dict(reduce_zero_label=True, type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(
        512,
        128,
    ), type='Resize'),
    dict(reduce_zero_label=True, type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_iters=320, type='IterBasedTrainLoop', val_interval=160)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        data_root='data/shapes/target/ade/ADEChallengeData2016',
        metainfo=dict(
            classes=(
                'circle',
                'triangle',
                'square',
                'bar',
                'star',
                'cross',
                'background',
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
                (
                    45,
                    48,
                    56,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(reduce_zero_label=True, type='LoadAnnotations'),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.5,
                    2.0,
                ),
                scale=(
                    512,
                    128,
                ),
                type='RandomResize'),
            dict(crop_size=(
                128,
                128,
            ), type='RandomCrop'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(reduce_zero_label=True, type='LoadAnnotations'),
    dict(
        keep_ratio=True,
        ratio_range=(
            0.5,
            2.0,
        ),
        scale=(
            512,
            128,
        ),
        type='RandomResize'),
    dict(crop_size=(
        128,
        128,
    ), type='RandomCrop'),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        transforms=[
            [
                dict(keep_ratio=True, scale_factor=0.5, type='Resize'),
                dict(keep_ratio=True, scale_factor=0.75, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.0, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.25, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.5, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.75, type='Resize'),
            ],
            [
                dict(direction='horizontal', prob=0.0, type='RandomFlip'),
                dict(direction='horizontal', prob=1.0, type='RandomFlip'),
            ],
            [
                dict(reduce_zero_label=True, type='LoadAnnotations'),
            ],
            [
                dict(type='PackSegInputs'),
            ],
        ],
        type='TestTimeAug'),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        data_root='data/shapes/target/ade/ADEChallengeData2016',
        metainfo=dict(
            classes=(
                'circle',
                'triangle',
                'square',
                'bar',
                'star',
                'cross',
                'background',
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
                (
                    45,
                    48,
                    56,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                512,
                128,
            ), type='Resize'),
            dict(reduce_zero_label=True, type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
weights_help = 'Train it with `python tools/train.py configs/full/upernet_internvit-tiny_full_shapes-source.py`.'
