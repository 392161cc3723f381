# How its authors train EVA-02-L on ADE20K: blocks 7, 11, 15 and 23, heads of
# 1024 channels, stochastic depth of 0.2, layer decay of 0.9, 80k iterations of
# AdamW at 4e-5 (EVA-02/seg/configs/eva02/upernet/
# upernet_eva02_large_24_512_slide_80k.py of https://github.com/baaivision/EVA).
_base_ = [
    '../models/upernet_vit.py',
    '../backbones/eva02-l.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/adamw_80k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    backbone=dict(
        backbone=dict(
            _base_.vit,
            img_size=512,
            out_indices=[7, 11, 15, 23],
            drop_path_rate=0.2,
        )
    ),
    neck=dict(in_channels=[1024] * 4),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)
full_finetuning = dict(layer_decay=0.9)
