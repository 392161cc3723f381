# The small twin of linear_dinov3-vit-l_ade20k-512x512.py.
_base_ = [
    '../models/linear_vit.py',
    '../backbones/dinov3-vit-tiny.py',
    '../datasets/shapes_ade20k_128x128.py',
    '../schedules/adamw_shapes_320.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        backbone=dict(_base_.vit, drop_path_rate=0.0),
        peft=dict(autocast=None),
    ),
    neck=dict(in_channels=[64], norm_cfg=dict(type='BN')),
    # The six shapes and the background.
    decode_head=dict(in_channels=64, channels=64, num_classes=7),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
