# The generated target domain in the format of ADE20K, at its own size of
# 128x128, through the pipeline of ade20k_512x512.py.
_base_ = ['./ade20k_512x512.py', './shapes.py']

dataset_type = 'BaseSegDataset'
data_root = 'data/shapes/target/ade/ADEChallengeData2016'
data_help = _base_.shapes.data_help
crop_size = (128, 128)
metainfo = dict(
    classes=(*_base_.shapes.metainfo.classes, 'background'),
    palette=[*_base_.shapes.metainfo.palette, (45, 48, 56)],
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(
        type='RandomResize',
        scale=(512, 128),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    # The background is a class of its own and may fill a crop.
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(512, 128), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=True,
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=True,
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
