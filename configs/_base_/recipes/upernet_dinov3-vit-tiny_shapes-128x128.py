# The small twin of upernet_dinov3-vit-l_ade20k-512x512.py.
_base_ = [
    '../models/upernet_vit.py',
    '../backbones/dinov3-vit-tiny.py',
    '../datasets/shapes_ade20k_128x128.py',
    '../schedules/adamw_shapes_320.py',
    '../default_runtime_mmseg.py',
]
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        backbone=dict(
            _base_.vit,
            out_indices=[0, 1, 2, 3],
            final_norm='all',
            drop_path_rate=0.0,
        ),
        peft=dict(autocast=None),
    ),
    neck=dict(in_channels=[64] * 4),
    # The six shapes and the background.
    decode_head=dict(
        in_channels=[64] * 4, channels=32, num_classes=7, norm_cfg=norm_cfg
    ),
    auxiliary_head=dict(
        in_channels=64, channels=32, num_classes=7, norm_cfg=norm_cfg
    ),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
