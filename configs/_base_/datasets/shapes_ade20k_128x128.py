# The generated target domain in the format of ADE20K, at its own size of
# 128x128, through the pipeline of ade20k_512x512.py.
_base_ = './ade20k_512x512.py'

dataset_type = 'BaseSegDataset'
data_root = 'data/shapes/target/ade/ADEChallengeData2016'
data_help = 'Write the generated data with `python tools/make_shapes.py`.'
crop_size = (128, 128)
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
        (42, 157, 244),
        (240, 56, 107),
        (52, 199, 123),
        (255, 183, 0),
        (167, 101, 247),
        (232, 86, 12),
        (45, 48, 56),
    ],
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
