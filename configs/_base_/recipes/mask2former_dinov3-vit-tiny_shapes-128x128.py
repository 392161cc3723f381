# The small twin of mask2former_dinov3-vit-l_ade20k-640x640.py.
_base_ = [
    '../models/mask2former_vit.py',
    '../backbones/dinov3-vit-tiny.py',
    '../datasets/shapes_ade20k_128x128.py',
    '../schedules/adamw_shapes_320.py',
    '../default_runtime_mmseg.py',
]

custom_imports = dict(imports=['mmflora', 'mmdet.models'])
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
        num_classes=7,
        num_queries=10,
        pixel_decoder=dict(encoder=dict(num_layers=1)),
        transformer_decoder=dict(num_layers=3),
        loss_cls=dict(class_weight=[1.0] * 7 + [0.1]),
        train_cfg=dict(num_points=256),
    ),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
