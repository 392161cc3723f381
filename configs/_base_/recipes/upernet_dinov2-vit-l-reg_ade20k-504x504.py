# As upernet_dinov3-vit-l_ade20k-512x512.py, in crops of 36 patches of 14
# pixels.
_base_ = [
    '../models/upernet_vit.py',
    '../backbones/dinov2-vit-l-reg.py',
    '../datasets/ade20k_504x504.py',
    '../schedules/adamw_160k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(504, 504)),
    backbone=dict(
        backbone=dict(
            _base_.vit,
            img_size=504,
            out_indices=[4, 11, 17, 23],
            final_norm='all',
            drop_path_rate=0.2,
        )
    ),
    neck=dict(in_channels=[1024] * 4),
    decode_head=dict(in_channels=[1024] * 4),
    auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(crop_size=(504, 504), stride=(336, 336)),
)
full_finetuning = dict(layer_decay=0.9)
